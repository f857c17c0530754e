"""What can be typed behind `eyas`: its commands and their options."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NoReturn, Protocol

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

TOP_K = 50
"""Tokens that `eyas generate` draws among unless it is told otherwise."""


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message: str) -> NoReturn:
        hint = "" if "--help" in message or message.endswith("?") else f"; see {self.prog} --help"
        self.exit(2, f"eyas: {message}{hint}\n")


class Command(Protocol):
    """Adds a command and returns its parser."""

    def __call__(self, name: str, help: str, **options: object) -> argparse.ArgumentParser: ...


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = Parser(prog="eyas", description="Compose, train and compare hybrid language models.", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, help: str, **options: object) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=help, description=help, allow_abbrev=False, **options)  # type: ignore[arg-type]  # of several types

    for add in (add_training, add_use, add_weights, add_tables, add_lists):
        add(command)
    return parser


def add_training(command: Command) -> None:
    """train and resume."""
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


def add_use(command: Command) -> None:
    """generate and eval."""
    generate = command("generate", "continue texts with a trained model")
    generate.add_argument("run", type=Path, help="run folder")
    generate.add_argument("--prompt", action="append", help="text to continue; give several for one each")
    generate.add_argument("--tokens", type=int, default=200, help="tokens to add at most (%(default)s)")
    how = generate.add_mutually_exclusive_group()
    how.add_argument("--greedy", action="store_true", help="take the likeliest token each time")
    how.add_argument("--temperature", type=float, default=0.8, help="0 takes the likeliest token (%(default)s)")
    generate.add_argument("--top-k", type=int, help=f"draw among the likeliest k, 0 for all ({TOP_K})")
    generate.add_argument("--top-p", type=float, help="draw among the likeliest of so much; among all if left out")
    generate.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before this text")
    generate.add_argument("--seed", type=int, default=0, help="of the draws (%(default)s)")
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
    asked.add_argument("--batch", type=int, default=8, metavar="N", help="texts read at once (%(default)s)")
    asked.add_argument("--max-length", type=int, metavar="N", help="tokens read at most, the latest; all if left out")


def add_weights(command: Command) -> None:
    """import-hf, export-hf and average."""
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


def add_tables(command: Command) -> None:
    """results and report."""
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


def add_lists(command: Command) -> None:
    """new-mixer, layers and models."""
    new = command("new-mixer", "write a package with a mixer of your own")
    new.add_argument("name", help="what configurations will call it, such as gated_delta")
    new.add_argument("--symbol", help="its capital letter in pattern shorthand")
    new.add_argument("--folder", type=Path, help="where the package goes; by default ./NAME")
    layers, models = (
        command("layers", "list the registered mixers"),
        command("models", "list the models' sizes and costs"),
    )
    models.add_argument(
        "--sequence-length", type=int, default=4096, metavar="N", help="tokens that costs are told for (%(default)s)"
    )
    for listing in (layers, models):
        listing.add_argument("--json", action="store_true", help="print JSON")


def steps(text: str) -> list[int]:
    """Numbers with commas between them."""
    return [int(step) for step in text.split(",")]
