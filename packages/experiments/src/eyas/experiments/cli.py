"""The `eyas` command. Help and argument errors cost no import of torch, Hydra or Megatron."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NoReturn

from eyas.core.errors import ConfigError, EyasError

TRAIN_HELP = """\
Options are Hydra overrides; those most used:
  experiment=quickstart              a whole recipe (conf/experiment)
  model=falcon_h1_tiny               a model (eyas models lists them)
  model.pattern=[ssm,attn,ffn]       another topology
  layer@model.layers.ssm=attention   another mixer in the place of `ssm` (eyas layers lists them)
  layout.tensor=2 layout.pipeline=2  a parallel layout
  data.files='texts/**/*.txt'        your own text
  trainer.max_steps=500              anything that --cfg job shows
  -m seed=1,2,3 layout.tensor=1,2    a multirun over all combinations
  --cfg job                          print what would run
"""
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
    parser = build_parser()
    known, rest = parser.parse_known_args(sys.argv[1:] if arguments is None else list(arguments))
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


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message: str) -> NoReturn:
        hint = "" if "--help" in message else f"; see {self.prog} --help"
        self.exit(2, f"eyas: {message}{hint}\n")


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = Parser(prog="eyas", description="Compose, train and compare hybrid language models.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, help: str, **options: object) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help, allow_abbrev=False, **options)  # type: ignore[arg-type]  # of several types

    train = command(
        "train", "train a model", epilog=TRAIN_HELP, formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="eyas train [--dry-run] [-m] [--cfg job] [option=value ...]",
    )  # fmt: skip
    train.add_argument("--dry-run", action="store_true", help="show what would run and what it would cost")
    train.add_argument("-m", "--multirun", action="store_true", help="run every combination of option=a,b,c")
    train.add_argument("-c", "--cfg", choices=("job", "hydra", "all"), help="print the configuration, and run nothing")
    train.add_argument("--resolve", action="store_true", help="with --cfg: fill in values that refer to others")
    resume = command("resume", "go on from a run's latest checkpoint")
    resume.add_argument("run", type=Path, help="run folder")
    resume.add_argument(
        "overrides", nargs="*", help="changes of layout, trainer, profile or sample, such as layout.tensor=2"
    )
    generate = command("generate", "continue texts with a trained model")
    generate.add_argument("run", type=Path, help="run folder")
    generate.add_argument("--prompt", action="append", help="text to continue; give several for one each")
    generate.add_argument("--tokens", type=int, default=200, help="tokens to add at most")
    how = generate.add_mutually_exclusive_group()
    how.add_argument("--greedy", action="store_true", help="take the likeliest token each time")
    how.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token")
    generate.add_argument("--top-k", type=int, default=50, help="draw among the likeliest k")
    generate.add_argument("--top-p", type=float, default=1.0, help="draw among the likeliest of this probability")
    generate.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text")
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--speculate", action="store_true", help="draft with the tail of the pattern; needs --greedy")
    generate.add_argument("--save-prefix", type=Path, metavar="FILE", help="keep the state behind the prompt")
    generate.add_argument("--from-prefix", type=Path, metavar="FILE", help="continue a state that was kept")
    asked = command("eval", "ask a trained model the tasks of lm-eval")
    asked.add_argument("run", type=Path, help="run folder")
    asked.add_argument("--tasks", required=True, metavar="A,B", help="names of tasks, or of groups of them")
    asked.add_argument("--include", type=Path, metavar="DIR", help="folder with task files of your own")
    asked.add_argument(
        "--shots", type=int, metavar="N", help="examples before each question; as the task says if left out"
    )
    asked.add_argument("--limit", type=int, metavar="N", help="questions of each task; all if left out")
    asked.add_argument("--batch", type=int, default=8, metavar="N", help="texts read at once")
    asked.add_argument("--max-length", type=int, metavar="N", help="tokens read at most, the latest; all if left out")
    import_hf = command("import-hf", "make a run folder of a model in Hugging Face's format")
    import_hf.add_argument("source", type=Path, help="folder with config.json, safetensors and tokenizer.json")
    import_hf.add_argument("--name", help="folder under runs; the model_type if left out")
    import_hf.add_argument("--without-mtp", action="store_true", help="leave out layers that predict further tokens")
    export_hf = command("export-hf", "write a run's model so that transformers loads it")
    export_hf.add_argument("run", type=Path, help="run folder")
    export_hf.add_argument("target", type=Path, help="folder to make")
    average = command("average", "make a run folder of the mean of checkpoints")
    average.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders; of several the latest of each")
    which = average.add_mutually_exclusive_group()
    which.add_argument("--last", type=int, metavar="N", help="the last N of each run; of one run all if left out")
    which.add_argument("--steps", type=steps, default=(), metavar="A,B,C", help="those of these steps")
    average.add_argument("--name", help="folder under runs; that of the run with -average if left out")
    results = command("results", "table of a run or a multirun")
    results.add_argument("--by-seed", action="store_true", help="a row for each seed in place of mean and deviation")
    report = command("report", "write an HTML page about runs, and tell which pass rules they keep to")
    report.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="the page; report.html in the folder if left out"
    )
    report.add_argument("--strict", action="store_true", help="exit with 1 unless every pass rule is passed")
    for told in (results, report):
        told.add_argument("directories", type=Path, nargs="+", metavar="DIR", help="run folder, or a folder of runs")
        form = told.add_mutually_exclusive_group()
        form.add_argument("--csv", action="store_true", help="print comma-separated values")
        form.add_argument("--md", action="store_true", help="print a Markdown table")
        form.add_argument("--latex", action="store_true", help="print a LaTeX table")
    new = command("new-mixer", "write a package with a mixer of your own")
    new.add_argument("name", help="what configurations will call it, such as gated_delta")
    new.add_argument("--symbol", help="its capital letter in pattern shorthand")
    new.add_argument("--folder", type=Path, help="where the package goes; by default ./NAME")
    layers, models = (
        command("layers", "list the registered mixers"),
        command("models", "list the models' sizes and costs"),
    )
    models.add_argument("--sequence-length", type=int, default=4096, metavar="N", help="tokens that costs are told for")
    for listing in (layers, models):
        listing.add_argument("--json", action="store_true", help="print JSON")
    return parser


def steps(text: str) -> list[int]:
    """Numbers with commas between them."""
    return [int(step) for step in text.split(",")]


def run_train(known: argparse.Namespace, rest: list[str]) -> int:
    from eyas.experiments.compose_errors import check_overrides
    from eyas.experiments.train import train

    if known.cfg and (known.multirun or known.dry_run):
        raise ConfigError(f"--cfg runs nothing; leave out {'--multirun' if known.multirun else '--dry-run'}")
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
    generated = generate(
        find(known.run),
        known.prompt or [""],
        tokens=known.tokens,
        sampling=Sampling(temperature=temperature, top_k=known.top_k, top_p=known.top_p),
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
