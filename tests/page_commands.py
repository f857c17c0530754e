"""The commands of a page, run in order in one folder as a reader would run them, but on a text and for steps that take
a moment."""

import contextlib
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import yaml
from page_data import write_page_data
from page_mixer import blocks

from eyas.experiments.conf_tree import conf_folder

ROOT = Path(__file__).parents[1]
NOT_RUN = {
    "source": "enters the environment that nox has made",
    "python3 -m pip": "installs packages; nox -s wheels does that in a new environment",
    "pip install": "installs packages; tests/test_new_mixer.py does that with the same package",
    "pytest": "tests/test_new_mixer.py runs these tests",
    "eyas new-mixer token-shift": "is refused where that mixer is installed, as here; tests/test_new_mixer.py runs it",
    "eyas train -m experiment=quickstart seed=1,2,3,4 layout.tensor=2 hydra/launcher=submitit_slurm": "needs SLURM",
    "eyas eval runs/quickstart --tasks hellaswag,arc_easy": "fetches data over a network",
}
"""Beginnings of the lines that are not run, and why; every other line of a page is."""
ABOUT_RUNS = ("resume", "generate", "results", "report", "eval", "average", "import-hf", "export-hf")
"""Commands that need a run."""
START = "start_from="
DRAWN = ("recall", "mqar_gate")
"""Experiments of shell blocks whose task draws its own sequences."""
PLACE = r"((?:conf|questions)/[\w/.]+\.yaml)"
"""Where a file that a page shows belongs."""
PLACEHOLDER = re.compile(r"\.\.\.|\b[A-Z]{3,}\b")
"""What stands for something that a reader has."""
STEPS, MORE = 2, 2
"""Steps of a training, and how many a resumed one has more."""
FEW_TESTS = "data.validation_sequences=2"
FILES = "data.files=texts/*.txt"


def lines(path):
    """The lines of a page's shell blocks, one a command."""
    joined = (line for text in blocks(path, "bash", "") for line in text.replace("\\\n", " ").splitlines())
    return [line for line in joined if line.strip() and not line.startswith("#")]


def spans(path):
    """The commands within a page's sentences and tables that are whole: they name what they work on."""
    sentences = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = (" ".join(text.split()) for text in re.findall(r"`(eyas [^`]+)`", sentences))
    whole = (text for text in found if not PLACEHOLDER.search(text))
    return [text for text in whole if any(not word.startswith("-") for word in text.split()[2:])]


def follows(words):
    """Whether a training goes on from the runs of another experiment."""
    named = [word.removeprefix("experiment=") for word in words if word.startswith("experiment=")]
    files = [conf_folder() / "experiment" / f"{name}.yaml" for name in named]
    return any(yaml.safe_load(file.read_text())["experiment"].get("follows") for file in files if file.exists())


def why_not_run(line):
    """The reason for which a line is not run; None for one that is."""
    return next((reason for start, reason in NOT_RUN.items() if line.startswith(start)), None)


class Reader:
    """Somebody who types what a page says."""

    def __init__(self, folder: Path, main, *, training: bool) -> None:
        """Works in `folder`; without `training` a command that trains is composed, checked and costed instead."""
        self.folder, self.main, self.training = folder, main, training
        write_page_data(folder)
        for part in ("code", "talk"):
            (folder / part).mkdir()
        shutil.copy(folder / "rows.jsonl", folder / "talk" / "0.jsonl")
        for text in folder.glob("texts/*.txt"):
            shutil.copy(text, folder / "code" / f"{text.stem}.py")

    def prepare(self, path: Path) -> None:
        """Writes the files that a page shows, those whose place stands in a comment at their beginning or in the line
        before them, and the data beside a task file."""
        shown = re.findall(r"([^\n]*)\n+```yaml\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
        for before, text in shown:
            place = re.search(rf"^# {PLACE}$", text, re.MULTILINE) or re.search(rf" {PLACE} .*:$", before)
            if place:
                target = self.folder / place[1]
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
        for text in blocks(path, "json"):
            (self.folder / "questions" / "python.jsonl").write_text(text)

    def run(self, line: str) -> str:
        """Runs a line; returns what it printed. Raises AssertionError where it does not end as the page says."""
        words = shlex.split(line, comments=True)[1:]
        comment = line.partition(" # ")[2]
        if words[0] == "train":
            words = self.shortened(words)
        elif words[0] == "resume":
            words = self.longer(words)
        elif words[0] == "generate":
            words += ["--tokens", "3"]
        elif words[0] == "import-hf" and self.training:
            self.say(["export-hf", "runs/quickstart", words[1]], 0)
        elif words[0] == "average":
            words = [re.sub(r"^[\d,]+$", lambda given: "1,2" if "," in given[0] else "2", word) for word in words]
        if not self.training and (words[0] in ABOUT_RUNS or any(word.startswith(START) for word in words)):
            return ""
        refused = not self.training and follows(words)
        told = self.say(words, 2 if refused else 1 if "exits with 1" in comment else 0)
        assert "; first eyas train -m experiment=" in told or not refused, told
        if "interrupt it" in comment and self.training:
            self.interrupt(words)
        return told

    def say(self, words, status):
        """Runs a command to its end, which must be of that status; returns what it printed."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = self.main(words)
            except SystemExit as end:
                code = end.code
        assert code == status, f"eyas {shlex.join(words)} ended with {code}: {err.getvalue()}"
        return out.getvalue() + err.getvalue()

    def shortened(self, words: list[str]) -> list[str]:
        """A training of a moment: the page's model and layout, few steps on a small text."""
        if {"--dry-run", "--cfg", "--help"} & {*words}:
            return words
        words = [re.sub(r"^(hydra\.sweeper\.n_trials)=\d+$", r"\1=2", word) for word in words]
        words = [re.sub(r"^(profile\.(?:start|steps))=\d+$", r"\1=1", word) for word in words]
        if not self.training:
            return [*words, "--dry-run"]
        kept = [re.sub(r"^(trainer\.checkpoint_interval)=\d+$", r"\1=1", word) for word in words]
        short = [f"trainer.max_steps={STEPS}", "schedule.warmup_steps=0", FEW_TESTS, "trainer.validation_interval=null"]
        drawn = ("task=", *(f"experiment={name}" for name in DRAWN))
        if not any(word.startswith(drawn) for word in words):
            short += ["data.sequence_length=32", "trainer.global_batch=4"]
            short += [] if any(word.startswith(START) for word in words) else ["data.vocab_size=300"]
            short += [] if any(word.startswith(("data=", "data.files=", "data.blend=")) for word in words) else [FILES]
            short += ["trainer.microbatch=2"] if any(word.startswith("layout") for word in words) else []
        return [*kept, *short]

    def longer(self, words: list[str]) -> list[str]:
        """A resume that has some steps to do."""
        done = json.loads((self.newest(words[1]) / "metrics.json").read_text())["steps"] if self.training else 0
        window = ["profile.start=1", "profile.steps=1"] if "profile.kind=torch" in words else []
        return [
            re.sub(r"^trainer\.max_steps=\d+$", f"trainer.max_steps={done + MORE}", word) for word in words
        ] + window

    def interrupt(self, words: list[str]) -> None:
        """Makes the run of a command one that was interrupted before its last step."""
        name = next(word.partition("=")[2] for word in words if word.startswith("name="))
        folder = self.newest(f"runs/{name}")
        shutil.rmtree(folder / "checkpoints" / f"step-{STEPS:08}")
        (folder / "status.json").write_text('{"state": "failed", "error": "interrupted"}')

    def newest(self, runs: str) -> Path:
        """The run folder that a folder of runs stands for."""
        from eyas.experiments.run_folder import find

        return find(self.folder / runs)
