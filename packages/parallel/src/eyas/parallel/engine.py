"""One training step under any layout: Megatron-Core's schedule, reductions, clipping and optimizer around a model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from eyas.core.labels import IGNORED
from eyas.parallel import checkpoint, gradients, optimizer_state
from eyas.parallel.after_batch import AfterBatch, Figures
from eyas.parallel.gradient_norms import GradientNorms
from eyas.parallel.grading import GRADES, grade_step, whole_table
from eyas.parallel.layout import Layout
from eyas.parallel.losses import LOSS, Losses
from eyas.parallel.megatron import DistributedDataParallel, get_forward_backward_func, parallel_state
from eyas.parallel.megatron_options import buffers, megatron_config, megatron_optimizer
from eyas.parallel.options import OptimizerOptions
from eyas.parallel.own_pieces import OwnPieces
from eyas.parallel.parts import factors, freeze
from eyas.parallel.regions import region
from eyas.parallel.stage import StageModule, joined
from eyas.parallel.step_clock import FORWARD, OPTIMIZER, REDUCTION, WAITING, StepClock
from eyas.parallel.this_rank import device_here, own_pieces_here, stages_here

Batch = Mapping[str, Tensor]
"""A microbatch's tensors by name, each (B, S)."""


class Engine:
    """Trains and evaluates this rank's stages of a model. Every rank of the layout makes one and calls it alike."""

    def __init__(
        self,
        stages: Sequence[nn.Module],
        layout: Layout,
        *,
        hidden_size: int,
        dtype: torch.dtype,
        tied: bool = False,
        meta_tokens: int = 0,
        losses: Sequence[str] = (LOSS,),
        optimizer: OptimizerOptions | None = None,
        learning_rates: Mapping[str, float] | None = None,
        wide_gradients: bool = True,
    ) -> None:
        """`stages` are those of `stages_here`, in order. `tied` says that the last stage has the first one's embedding
        too, `meta_tokens` how much longer the model makes the sequences that its stages send each other, and `losses`
        what the model reports. `optimizer` None makes an engine that only evaluates. `learning_rates` are the factors
        that the model asks for, by weight, where they are not 1. `wide_gradients` adds up the gradients of bfloat16
        weights in float32, over microbatches and over replicas."""
        self.figures: Figures = {}
        self.gradient_norms: dict[str, float] = {}
        """Of the last update's gradient, before clipping, by kind of mixer."""
        self.clock = StepClock(device_here())
        """Counts where whoever trains starts it."""
        self.model, self.layout = joined(stages), layout
        self.after_batch = AfterBatch(self.model, layout)
        self.meta_tokens, self.losses = meta_tokens, losses
        numbers, end = stages_here(layout), layout.stage_count - 1
        self.tied_copy = tied and numbers[-1] == end > 0
        self.config = megatron_config(layout, hidden_size, dtype)
        self.config.finalize_model_grads_func = self._finalize
        self.config.timers = self.clock
        if optimizer is not None:
            freeze(self.model, optimizer)
        trains = {name for name, parameter in self.model.named_parameters() if parameter.requires_grad}
        tied = tied and "embedding.weight" in trains
        gradients.mark(self.model, layout, tied=tied and end > 0, tied_copy=self.tied_copy)
        self.chunks: list[nn.Module] = [
            StageModule(stage, self.config, first=number == 0, last=number == end, tied=tied)
            for number, stage in zip(numbers, stages, strict=True)
        ]
        self.optimizer = None
        if optimizer is not None:
            how = buffers(self.model, layout, dtype, wide_gradients)
            self.chunks = [DistributedDataParallel(self.config, how, chunk) for chunk in self.chunks]
            if layout.overlap:
                within = [chunk.no_sync for chunk in self.chunks]
                self.config.no_sync_func = within if len(within) > 1 else within[0]
            rates = factors(self.model, optimizer, learning_rates or {})
            of_weights = {self.model.get_parameter(name): pair for name, pair in rates.items()}
            self.optimizer = megatron_optimizer(optimizer, layout, dtype, self.chunks, of_weights)
            self.norms_of_gradients = GradientNorms(self.model, self.optimizer, layout)

    def train_step(self, microbatches: Sequence[Batch]) -> dict[str, float]:
        """Forward and backward over this replica's microbatches; leaves the reduced gradients for `update` and returns
        the mean losses of the global batch by name."""
        assert self.optimizer is not None
        with self.clock.inside(OPTIMIZER):
            for chunk in self.chunks:
                chunk.zero_grad_buffer()  # type: ignore[operator]  # chunks are in Megatron-Core's wrapper where there is an optimizer
            self.optimizer.zero_grad()
        *totals, tokens = self._totals(self._run(microbatches, forward_only=False))
        return {name: total / max(tokens, 1.0) for name, total in zip(self.losses, totals, strict=True)}

    def update(self, learning_rate: float, weight_decay: float) -> tuple[bool, float]:
        """One optimizer step with these values. Returns whether it was made, and the gradient's norm."""
        assert self.optimizer is not None
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["lr_mult"]
            group["weight_decay"] = weight_decay * group["wd_mult"]
        with self.clock.inside(OPTIMIZER), region(OPTIMIZER):
            self.gradient_norms = self.norms_of_gradients()
            updated, grad_norm, _ = self.optimizer.step()
            self.figures = self.after_batch()
        return bool(updated), float(grad_norm)

    def evaluate(self, microbatches: Sequence[Batch]) -> tuple[float, int]:
        """Sum of the losses over the labelled tokens of the global batch, and their number; no gradients."""
        with torch.no_grad():
            total, *_, tokens = self._totals(self._run(microbatches, forward_only=True))
        return total, int(tokens)

    def grade(self, microbatches: Sequence[Batch]) -> dict[str, Tensor]:
        """Each token's `loss` and `hit`, (B, S) of the global batch on every rank; no gradients, and no
        multi-token-prediction tail."""
        own, length = own_pieces_here(self.layout), microbatches[0]["tokens"].shape[1]
        front = self.meta_tokens if own else 0
        with torch.no_grad():
            tables = self._run(microbatches, forward_only=True, step=grade_step)
            rows = sum(len(batch["tokens"]) for batch in microbatches)
            whole = whole_table(tables, rows, front + length, self.layout, own)
        return dict(zip(GRADES, whole[..., front:], strict=True))

    def sharded_state(self, *, loading: bool) -> dict[str, Any]:
        """This rank's weights and optimizer state as parts of whole tensors, to save or to load into."""
        weights = checkpoint.sharded_weights(self.model, tied_copy=self.tied_copy)
        state: dict[str, Any] = {"model": weights}
        if self.optimizer is not None:
            state["optimizer"] = optimizer_state.sharded(self.optimizer, weights, loading=loading)
        return state

    def load_optimizer(self, state: Mapping[str, Any]) -> None:
        """Takes over the optimizer's part of a loaded `sharded_state`, after the model has taken over its own."""
        weights = checkpoint.sharded_weights(self.model, tied_copy=self.tied_copy)
        optimizer_state.load(self.optimizer, weights, state)

    def _run(self, microbatches: Sequence[Batch], *, forward_only: bool, step: Any = None) -> list[Tensor]:
        """What the last stage reports of each microbatch; `step` is `forward_step` unless something else is asked."""
        self.layout.check_microbatches(len(microbatches))
        batch, sequence = microbatches[0]["tokens"].shape
        iterators = [iter(microbatches) for _ in self.chunks]
        rows = self.layout.context_pieces // self.layout.context
        schedule = get_forward_backward_func(self.layout.pipeline, self.config.virtual_pipeline_model_parallel_size)
        return schedule(
            forward_step_func=step or partial(forward_step, own_pieces=own_pieces_here(self.layout)),
            data_iterator=iterators,
            model=self.chunks,
            num_microbatches=len(microbatches),
            seq_length=(sequence + self.meta_tokens) // rows,
            micro_batch_size=batch * rows,
            forward_only=forward_only,
        )

    def _finalize(self, model: list[nn.Module], num_tokens: Tensor | None, **options: Any) -> None:
        """What schedules call once all gradients are computed. Where the clock runs, ranks wait for the last of them
        first, so that it is told from the reduction how long they wait; overlapped reductions are under way by then."""
        if self.clock.running and self.layout.processes > 1 and not self.layout.overlap:
            dist.all_reduce(torch.zeros((), device=device_here()))
        with self.clock.inside(REDUCTION), region(REDUCTION):
            gradients.finalize(model, num_tokens, self.layout, **options)

    def _totals(self, sums: list[Tensor]) -> list[float]:
        """Losses and token count summed over microbatches, replicas and their context ranks, from the last stage to all
        of them."""
        total = torch.zeros(len(self.losses) + 1, dtype=torch.float64, device=device_here())
        with self.clock.inside(WAITING):
            if sums:
                total = torch.stack(sums).sum(0)
                dist.all_reduce(total, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
            if self.layout.pipeline > 1:
                last = parallel_state.get_pipeline_model_parallel_last_rank()
                dist.broadcast(total, last, group=parallel_state.get_pipeline_model_parallel_group())
            return total.tolist()


def forward_step(microbatches: Iterator[Batch], stage: nn.Module, own_pieces: OwnPieces | None) -> tuple[Tensor, Any]:
    """The next microbatch through a stage; what Megatron-Core's schedules call. Ranks that share sequences read the
    same labels, which the first of them counts."""
    batch = next(microbatches)
    labels_BS = batch["labels"] if own_pieces is None or own_pieces.rank == 0 else batch["labels"].new_empty(0)
    with region(FORWARD):
        return stage(batch), partial(sum_loss, labels_BS)


def sum_loss(labels_BS: Tensor, losses: Tensor | Losses) -> tuple[Tensor, Tensor, Tensor]:
    """Sum of what is minimised, number of labelled tokens, and for the report the sums of all losses and that number in
    float64."""
    if isinstance(losses, Tensor):
        losses = Losses(losses, {LOSS: losses})
    tokens = (labels_BS != IGNORED).sum().int()
    report = [loss_SB.detach().sum().double() for loss_SB in losses.parts.values()]
    return losses.minimised_SB.sum(), tokens, torch.stack([*report, tokens.double()])
