"""What happens beside the training steps: progress on the terminal, checkpoints on disk."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, NoReturn

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from eyas.core.errors import EyasError
from eyas.experiments import run_folder
from eyas.experiments.run_logger import RunLogger
from eyas.parallel import checkpoint_folder

LINES = 20
"""Lines that a run prints where the output is no terminal."""


class Output(Console):
    """The output of a worker, which is the terminal's or a pipe."""

    def on_broken_pipe(self) -> NoReturn:
        """Ends the run as other tools end, but not without a word: rich would exit with code 1, like a failure."""
        raise EyasError(run_folder.UNREAD)


class ProgressLine(Callback):
    """A bar with loss, tokens per second, MFU and memory on a terminal; else a line now and then. On rank 0 alone."""

    def __init__(self) -> None:
        self.console = Output(file=sys.stdout, highlight=False)
        self.bar: Progress | None = None
        self.task: Any = None
        self.validation = ""

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if not (trainer.is_global_zero and self.console.is_terminal):
            return
        self.bar = Progress(
            TextColumn("training"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.bar.start()
        self.task = self.bar.add_task("", total=trainer.max_steps, completed=trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        if not trainer.is_global_zero:
            return
        text = describe({name: float(value) for name, value in trainer.callback_metrics.items()}) + self.validation
        if self.bar is not None:
            self.bar.update(self.task, completed=trainer.global_step, description=text)
        elif trainer.global_step % max(1, trainer.max_steps // LINES) == 0 or trainer.global_step == trainer.max_steps:
            self.console.print(f"step {trainer.global_step}/{trainer.max_steps}  {text}", soft_wrap=True)

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        found = trainer.callback_metrics
        self.validation = f"  validation {float(found['validation/loss']):.3f}"
        if "validation/accuracy" in found:
            self.validation += f"  accuracy {float(found['validation/accuracy']):.3f}"

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def describe(metrics: dict[str, float]) -> str:
    """Loss, tokens so far, speed, utilisation where it is known, and memory in a few words."""
    mfu = f"  MFU {metrics['mfu']:.1%}" if "mfu" in metrics else ""
    return (
        f"loss {metrics['train/loss']:.3f}  {metrics['tokens']:,.0f} tokens  {metrics['tokens_per_second']:,.0f} "
        f"tokens/s{mfu}  {metrics['memory_gib']:.1f} GiB"
    )


class ResumesLog(Callback):
    """Drops the rows that a resumed run is about to write again."""

    def __init__(self, log: RunLogger) -> None:
        self.log_ = log

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.log_.resume_at(trainer.global_step)


class Checkpoints(Callback):
    """Saves every `interval` steps and at the end; deletes all but the latest `keep`."""

    def __init__(self, folder: Path, interval: int | None, keep: int | None) -> None:
        self.folder, self.interval, self.keep = folder, interval, keep

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """What a killed run left half-written or half-deleted goes."""
        if trainer.is_global_zero:
            checkpoint_folder.clear_unfinished(self.folder)

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        last = trainer.global_step == trainer.max_steps
        if last or (self.interval is not None and trainer.global_step % self.interval == 0):
            trainer.save_checkpoint(checkpoint_folder.at_step(self.folder, trainer.global_step))
            if trainer.is_global_zero and self.keep is not None:
                saved = checkpoint_folder.complete(self.folder)
                for step in sorted(saved)[: -self.keep]:
                    checkpoint_folder.delete(saved[step])
