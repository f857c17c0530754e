"""Validations that Lightning's loop leaves out."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import Logger

from eyas.experiments.module import TrainingModule
from eyas.experiments.run_logger import RunLogger
from eyas.experiments.run_records import STEP
from eyas.experiments.windows import Batch


class MissedValidations(Callback):
    """Validates where Lightning does not, and logs that like the others: behind the last step where the interval did
    not come out there, and first of all where a run is resumed from a checkpoint that it was killed behind before it
    had validated, which Lightning takes for done."""

    def __init__(self, batches: Iterable[Batch], log: RunLogger, interval: int | None, *, resumed: bool) -> None:
        self.batches, self.log_, self.interval, self.resumed = batches, log, interval, resumed

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """Behind `ResumesLog`: the last row is that of the checkpoint's step."""
        due = self.resumed and self.interval is not None and trainer.global_step % self.interval == 0
        row = self.log_.row
        known = row.get(STEP) == str(trainer.global_step - 1) and bool(row.get("validation/loss"))
        if due and trainer.strategy.broadcast(not known):
            self.make_up(trainer, module, trainer.loggers)

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self.make_up(trainer, module, trainer.loggers)

    def make_up(self, trainer: Trainer, module: LightningModule, loggers: Iterable[Logger]) -> None:
        """Does nothing where the last step's validation is known."""
        assert isinstance(module, TrainingModule)
        if module.validated_at == trainer.global_step:
            return
        found = module.validate_with(self.batches)
        for logger in loggers:
            logger.log_metrics({f"validation/{name}": value for name, value in found.items()}, trainer.global_step - 1)
