"""The `eyas` command. Help and argument errors cost no import of torch, Hydra or Megatron."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from eyas.core.errors import ConfigError, EyasError
from eyas.core.nearest import unknown_name
from eyas.experiments.command_line import TOP_K, build_parser

BETWEEN_TEXTS = "\n---\n"
"""Stands between the texts of several prompts."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 2 for input that cannot be honoured, 1 for a run that failed. Where
    nobody reads the output any longer (`| head`) it ends without a word, with the code that the shell gives to others.
    """
    try:
        try:
            return run(arguments)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        return 128 + signal.SIGPIPE


def run(arguments: Sequence[str] | None) -> int:
    """Runs one command; what cannot be honoured is one line on the error stream."""
    parser, given = build_parser(), sys.argv[1:] if arguments is None else list(arguments)
    if given and not given[0].startswith("-") and given[0] not in COMMANDS:
        parser.error(unknown_name("command", given[0], COMMANDS))
    known, rest = parser.parse_known_args(given)
    unknown = [argument for argument in rest if known.command != "train" or argument.startswith("-")]
    if unknown:
        parser.error(f"eyas {known.command} does not know {unknown[0]!r}; see eyas {known.command} --help")
    try:
        return COMMANDS[known.command](known, rest)
    except EyasError as error:
        print(f"eyas: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt as interrupt:
        beside = "\n" * sys.stderr.isatty()  # the progress line
        print(": ".join(filter(None, [f"{beside}eyas: interrupted", str(interrupt)])), file=sys.stderr)
        return 130


def run_train(known: argparse.Namespace, rest: list[str]) -> int:
    from eyas.experiments.compose_errors import check_overrides
    from eyas.experiments.train import train

    if known.cfg and (known.multirun or known.dry_run):
        raise ConfigError(f"--cfg runs nothing; leave out {'--multirun' if known.multirun else '--dry-run'}")
    if known.resolve and not known.cfg:
        raise ConfigError("--resolve says how --cfg prints; write eyas train --cfg job --resolve")
    check_overrides(rest)
    flags = ["--multirun"] * known.multirun + ["--cfg", known.cfg] * bool(known.cfg) + ["--resolve"] * known.resolve
    return train([*flags, *rest], dry_run=known.dry_run)


def run_resume(known: argparse.Namespace, rest: list[str]) -> int:
    from eyas.experiments.resume import resume
    from eyas.experiments.run_folder import find

    return resume(find(known.run), known.overrides)


def run_generate(known: argparse.Namespace, rest: list[str]) -> int:
    from eyas.experiments.generate import generate
    from eyas.experiments.run_folder import find
    from eyas.layers.sampling import Sampling

    temperature = 0.0 if known.greedy else known.temperature
    if temperature == 0 and (known.top_k, known.top_p) != (None, None):
        raise ConfigError("--greedy and --temperature 0 take the likeliest token; leave out --top-k and --top-p")
    sampling = Sampling(
        temperature=temperature,
        top_k=TOP_K if known.top_k is None else known.top_k or None,
        top_p=Sampling.top_p if known.top_p is None else known.top_p,
    )
    generated = generate(
        find(known.run),
        known.prompt or [""],
        tokens=known.tokens,
        sampling=sampling,
        stop=known.stop,
        seed=known.seed,
        from_prefix=known.from_prefix,
        save_prefix=known.save_prefix,
        speculate=known.speculate,
    )
    print(BETWEEN_TEXTS.join(generated.texts))
    if (drafts := generated.acceptance) is not None:
        print(f"accepted {drafts.accepted} of {drafts.drafted} drafted tokens ({drafts.rate:.0%})", file=sys.stderr)
    return 0


def run_eval(known: argparse.Namespace, rest: list[str]) -> int:
    from eyas.experiments.eval.evaluation import evaluate, print_evaluation
    from eyas.experiments.run_folder import find

    folder, tasks = find(known.run), [task for task in known.tasks.split(",") if task]
    figures = evaluate(
        folder,
        tasks,
        include=known.include,
        shots=known.shots,
        limit=known.limit,
        batch=known.batch,
        longest=known.max_length,
    )
    print_evaluation(folder, figures)
    return 0


def run_import_hf(known: argparse.Namespace, rest: list[str]) -> int:
    from eyas.experiments.import_hf import import_hf

    print(f"Run folder: {import_hf(known.source, known.name, without_mtp=known.without_mtp)}")
    return 0


def run_export_hf(known: argparse.Namespace, rest: list[str]) -> int:
    from eyas.experiments.export_hf import export_hf
    from eyas.experiments.run_folder import find

    export_hf(find(known.run), known.target)
    print(f"Model for transformers: {known.target}")
    return 0


def run_average(known: argparse.Namespace, rest: list[str]) -> int:
    from eyas.experiments.average import average
    from eyas.experiments.run_folder import find

    print(f"Run folder: {average([find(run) for run in known.runs], known.name, last=known.last, steps=known.steps)}")
    return 0


def run_results(known: argparse.Namespace, rest: list[str]) -> int:
    from eyas.experiments.results_command import print_results

    print_results(*known.directories, by_seed=known.by_seed, form=form(known) or "table")
    return 0


def run_report(known: argparse.Namespace, rest: list[str]) -> int:
    if printed := form(known):
        from eyas.experiments.results_command import print_results

        if known.output:
            raise ConfigError(f"--{printed} prints the table and writes no page; leave out --output")
        if known.strict:
            raise ConfigError(f"--{printed} prints the table and judges no rule; leave out --strict")
        print_results(*known.directories, form=printed)
    else:
        from eyas.experiments.report.command import write_report

        write_report(known.directories, known.output, strict=known.strict)
    return 0


def form(known: argparse.Namespace) -> Literal["csv", "md", "latex"] | None:
    """What a table is asked for as; None for none of them."""
    return "csv" if known.csv else "md" if known.md else "latex" if known.latex else None


def run_new_mixer(known: argparse.Namespace, rest: list[str]) -> int:
    from eyas.experiments.new_mixer import print_new_mixer

    print_new_mixer(known.name, known.symbol, known.folder)
    return 0


def run_layers(known: argparse.Namespace, rest: list[str]) -> int:
    with uncollected():
        from eyas.experiments.catalogue import print_layers

        print_layers(as_json=known.json)
    return 0


def run_models(known: argparse.Namespace, rest: list[str]) -> int:
    with uncollected():
        from eyas.experiments.catalogue import print_models

        print_models(as_json=known.json, sequence_length=known.sequence_length)
    return 0


@contextmanager
def uncollected() -> Iterator[None]:
    """For a second's work: searching torch for garbage while it is imported would be an eighth of it."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


COMMANDS: dict[str, Callable[[argparse.Namespace, list[str]], int]] = {
    "train": run_train,
    "resume": run_resume,
    "generate": run_generate,
    "eval": run_eval,
    "import-hf": run_import_hf,
    "export-hf": run_export_hf,
    "average": run_average,
    "results": run_results,
    "report": run_report,
    "new-mixer": run_new_mixer,
    "layers": run_layers,
    "models": run_models,
}

if __name__ == "__main__":
    sys.exit(main())
