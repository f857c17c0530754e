"""The LightningModule of a run: one batch is one global batch, one training step is one optimizer step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import nn

from eyas.experiments.run_config import RunConfig
from eyas.experiments.step_metrics import StepMetrics, named
from eyas.experiments.validation import Validation
from eyas.experiments.windows import Batch
from eyas.layers import upcycle
from eyas.layers.dropout import token_seeds
from eyas.layers.model import HybridLM
from eyas.layers.rank_model import learning_rates, stages_here
from eyas.layers.upcycle import Grown
from eyas.parallel.engine import Engine
from eyas.parallel.stage import joined
from eyas.parallel.this_rank import device_here, replica_here

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


class TrainingModule(LightningModule):
    """Builds this rank's stages of the model and drives the engine around it."""

    automatic_optimization = False

    def __init__(
        self,
        run: RunConfig,
        start: Path | None,
        validation: Callable[[], Validation],
        upcycled: Mapping[str, Grown] | None = None,
    ) -> None:
        """`start` is the checkpoint whose weights the model begins with; drawn ones without it. `validation` begins a
        pass over the validation batches. `upcycled` are the layers that are dense in the checkpoint."""
        super().__init__()
        self.run, self.start, self.new_validation = run, start, validation
        self.spec = run.spec
        self.dtype_ = DTYPES[run.trainer.precision]
        self.upcycled = upcycled or {}
        self.stages: list[HybridLM] = []
        self.model: nn.Module | None = None
        self.engine: Engine | None = None
        self.measured: StepMetrics | None = None
        self.validation: dict[str, float] = {}
        """What the last validation told."""
        self.validated_at = -1
        self._validation = validation()

    def configure_model(self) -> None:
        if self.model is not None:
            return
        length = self.run.data.sequence_length
        self.stages = stages_here(self.spec, self.run.layout, self.dtype_, self.run.seed, length)
        if self.run.trainer.activation_rms:
            for stage in self.stages:
                stage.watch_outputs()
        self.model = joined(self.stages)
        if self.start is not None:
            upcycle.load(self.model, self.upcycled, self.start, self.run.seed, self.spec.hidden_std)

    def make_engine(self, fitting: bool) -> Engine:
        """The engine around this rank's stages; with an optimizer when fitting."""
        self.engine = Engine(
            self.stages,
            self.run.layout,
            hidden_size=self.spec.hidden_size,
            dtype=self.dtype_,
            tied=self.spec.embeds_twice,
            meta_tokens=self.spec.meta_tokens,
            losses=self.stages[0].losses,
            optimizer=self.run.optimizer if fitting else None,
            learning_rates=learning_rates(self.stages),
            wide_gradients=self.run.trainer.gradients == "float32",
        )
        if fitting:
            self.measured = StepMetrics(self.run, self.engine, self.dtype_)
        return self.engine

    def begin_step(self) -> None:
        """Called before the batch of a training step is made."""
        assert self.measured is not None
        self.measured.begin()

    def configure_optimizers(self) -> None:
        """None: the strategy makes Megatron-Core's."""

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        assert self.engine is not None and self.measured is not None
        step, steps, schedule = self.global_step, self.run.trainer.max_steps, self.run.schedule
        losses = self.engine.train_step(self.microbatches(self.with_seeds(batch, step)))
        optimizer: Any = self.optimizers()
        optimizer.optimizer.values = (
            self.run.optimizer.learning_rate * schedule.learning_rate(step, steps),
            self.run.optimizer.weight_decay * schedule.weight_decay(step, steps),
        )
        optimizer.step()
        rate, decay = optimizer.optimizer.values
        metrics = {
            **self.measured.end(step, losses, optimizer.optimizer.result),
            "learning_rate": rate,
            "weight_decay": decay,
            **{
                f"learning_rate/{name}": rate * group.learning_rate_factor
                for name, group in self.run.optimizer.groups.items()
            },
        }
        self.log_dict(metrics, logger=False)
        metrics |= named(self.engine.figures)  # for the loggers alone: hundreds, of which the terminal shows none
        for logger in self.loggers:  # at once: Lightning would write the row only after the step's checkpoint
            logger.log_metrics(metrics, step)

    def on_validation_epoch_start(self) -> None:
        self._validation = self.new_validation()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        assert self.engine is not None
        self._validation.add(self.engine, self.microbatches(batch))

    def on_validation_epoch_end(self) -> None:
        self._conclude_validation()
        self.log_dict({f"validation/{name}": value for name, value in self.validation.items()})

    def validate_with(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Validates outside of Lightning's loop; returns what that tells."""
        self.on_validation_epoch_start()
        for index, batch in enumerate(batches):
            self.validation_step({name: tensor.to(device_here()) for name, tensor in batch.items()}, index)
        self._conclude_validation()
        return self.validation

    def _conclude_validation(self) -> None:
        self.validation, self.validated_at = self._validation.metrics(), self.global_step

    def with_seeds(self, batch: Batch, step: int) -> Batch:
        """This replica's batch of a step, with what dropout draws from where the model has it."""
        if not self.spec.dropout:
            return batch
        tokens_BS = batch["tokens"]
        first = self.run.trainer.batches.before(step) + replica_here() * len(tokens_BS)
        return batch | {"seeds": token_seeds(self.run.seed, first, *tokens_BS.shape).to(tokens_BS.device)}

    def microbatches(self, batch: Batch) -> list[Batch]:
        """This replica's batch in microbatches."""
        size = self.run.trainer.microbatch
        parts = {name: tensor.split(size) for name, tensor in batch.items()}
        return [dict(zip(parts, tensors, strict=True)) for tensors in zip(*parts.values(), strict=True)]
