"""How a model is spread over processes, and what such a layout demands of the machine and the batch."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from eyas.core.errors import LayoutError
from eyas.core.recompute import FULL, Recompute
from eyas.core.weights import BranchPlaces, Coordinates

Dispatcher = Literal["alltoall", "allgather"]
Cut = Literal["auto"]
ContextOrder = Literal["zigzag", "contiguous"]
ContextExchange = Literal["gather", "alltoall"]
CHOICES = {
    "dispatcher": Dispatcher,
    "branches": BranchPlaces,
    "context_order": ContextOrder,
    "context_exchange": ContextExchange,
}
OPTIONS = ("sequence", "distributed_optimizer", "overlap")
"""Fields that are on or off."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of each kind of parallelism; their product is the number of processes."""

    tensor: int = 1
    """Processes that share each layer's weights."""
    sequence: bool = False
    """Split activations along the sequence between blocks, over the tensor-parallel processes."""
    pipeline: int = 1
    """Processes that the blocks are divided over, in stages."""
    virtual_pipeline: int = 1
    """Stages on each pipeline process: process r of p runs stages r, r + p, r + 2p ..., which shortens the time that
    processes wait for each other."""
    stages: tuple[int, ...] | Cut | None = None
    """Blocks of each stage, in order; `auto` for the division whose most expensive stage costs least, in FLOPs with the
    head and the multi-token-prediction tail; null for the pattern's `|`, or without them an even division."""
    context: int = 1
    """Processes that share each sequence."""
    context_order: ContextOrder = "zigzag"
    """Which part of a sequence each of `context` processes has: `zigzag` an early piece and a late one, so that causal
    attention is the same work for all; `contiguous` one piece."""
    context_exchange: ContextExchange = "gather"
    """What mixers with heads do under `context`: `gather` keys and values, or states, of all tokens; or by `alltoall`
    take all tokens of a part of the heads (attention and Mamba-2)."""
    expert: int = 1
    """Processes that share the experts of each mixture."""
    expert_tensor: int | None = None
    """Tensor-parallel size inside experts; None means the same as `tensor`. Experts lie on the processes of a pipeline
    stage in a grid of their own, `expert_tensor` x `expert` x as many replicas as remain."""
    data: int = 1
    """Replicas, each working on its own part of the batch."""
    distributed_optimizer: bool = False
    """Split the optimizer's state over the replicas."""
    overlap: bool = False
    """Reduce gradients over the replicas, part by part, while the last backward pass still computes others."""
    dispatcher: Dispatcher = "alltoall"
    """How tokens reach experts on other processes: each to its own, or all to everyone."""
    branches: BranchPlaces = "together"
    """Where the two branches of a block lie: on all tensor-parallel processes, each on a half of them, or on halves
    that swap from one such block to the next."""
    recompute: Recompute = ()
    """What the backward pass computes again instead of keeping it: `full` for whole blocks, or a list of roles such as
    ssm, attention, mlp, moe, norm."""
    loss_chunk: int | None = None
    """Tokens of a microbatch whose logits are made at once, for the loss and again for its gradient; None for all."""

    def __post_init__(self) -> None:
        for field in fields(self):
            size = getattr(self, field.name)
            if field.name == "recompute":
                if size != FULL and not (isinstance(size, tuple) and all(isinstance(role, str) for role in size)):
                    raise LayoutError(f"layout.recompute={size!r} must be full, or a list of roles")
            elif field.name == "stages":
                if not (
                    size is None or size in get_args(Cut) or (isinstance(size, tuple) and all(map(_is_size, size)))
                ):
                    shown = list(size) if isinstance(size, tuple) else size
                    raise LayoutError(
                        f"layout.stages={shown} must be auto, or each stage's number of blocks, at least 1"
                    )
            elif field.name in CHOICES:
                if size not in get_args(CHOICES[field.name]):
                    allowed = ", ".join(get_args(CHOICES[field.name]))
                    raise LayoutError(f"layout.{field.name}={size!r} must be one of {allowed}")
            elif field.type == "bool":
                if not isinstance(size, bool):
                    raise LayoutError(f"layout.{field.name}={size!r} must be true or false")
            elif not (size is None and field.default is None) and not _is_size(size):
                raise LayoutError(f"layout.{field.name}={size!r} must be a whole number of at least 1")
        if self.overlap and self.data * self.context == 1:
            raise LayoutError(
                "layout.overlap=true reduces gradients over replicas, but layout.data=1; set layout.data=2 or more, or "
                "layout.overlap=false"
            )
        if self.virtual_pipeline > 1 and self.pipeline == 1:
            raise LayoutError(
                f"layout.virtual_pipeline={self.virtual_pipeline} interleaves the stages of several pipeline "
                "processes, but layout.pipeline=1; set layout.pipeline=2 or more, or layout.virtual_pipeline=1"
            )
        if self.sequence and self.tensor == 1:
            raise LayoutError(
                "layout.sequence=true splits sequences over the tensor-parallel processes, but layout.tensor=1; "
                "set layout.tensor=2 or more, or layout.sequence=false"
            )

        if self.branches != "together" and self.tensor % 2:
            raise LayoutError(
                f"layout.branches={self.branches} needs two halves, but layout.tensor={self.tensor}; use an even number"
            )
        for name in ("context_order", "context_exchange"):
            if self.context == 1 and getattr(self, name) != getattr(Layout, name):
                raise LayoutError(
                    f"layout.{name}={getattr(self, name)} says how processes share a sequence, but layout.context=1; "
                    "set layout.context=2 or more, or leave it out"
                )
        self._check_experts()

    def _check_experts(self) -> None:
        stage, grid = self.tensor * self.context * self.data, self.expert * self.inside_experts
        if stage % grid:
            inside = "tensor" if self.expert_tensor is None else "expert_tensor"
            raise LayoutError(
                f"layout.expert={self.expert} times layout.{inside}={self.inside_experts} is {grid}, which does not "
                f"divide the {stage} processes of a pipeline stage (tensor x context x data); set "
                "layout.expert_tensor=1, or change layout.expert or layout.data"
            )

    @property
    def inside_experts(self) -> int:
        """Processes that divide each expert."""
        return self.tensor if self.expert_tensor is None else self.expert_tensor

    @property
    def coordinates(self) -> Coordinates:
        """The first process's place in the grids that weights are divided over."""
        return replace(Coordinates.of(self.tensor, self.expert, self.inside_experts), branches=self.branches)

    @property
    def processes(self) -> int:
        """Processes that the layout needs."""
        return self.tensor * self.pipeline * self.context * self.data

    @property
    def stage_count(self) -> int:
        """Stages that the blocks are divided into, over all pipeline processes."""
        return self.pipeline * self.virtual_pipeline

    def stages_of(self, pipeline_rank: int) -> range:
        """Numbers of the stages that a pipeline process runs."""
        return range(pipeline_rank, self.stage_count, self.pipeline)

    @property
    def context_pieces(self) -> int:
        """Pieces that each sequence is cut into for the context-parallel processes."""
        return self.context * (2 if self.context > 1 and self.context_order == "zigzag" else 1)

    def check_sequence(self, sequence_length: int, meta_tokens: int = 0) -> None:
        """Raises LayoutError where context and sequence parallelism cannot split sequences of this length behind the
        model's `meta_tokens`."""
        shards = self.tensor if self.sequence else 1
        unit = self.context_pieces * shards
        rest = (sequence_length + meta_tokens) % unit
        if not rest:
            return
        behind = f" behind {meta_tokens} meta tokens" if meta_tokens else ""
        fitting = sequence_length + unit - rest
        use = str(fitting) if meta_tokens else f"a multiple of {unit} such as {fitting}"
        parts = [f"layout.tensor={self.tensor} with layout.sequence=true"] if shards > 1 else []
        parts += [f"the {self.context_pieces} pieces of layout.context={self.context}"] if self.context > 1 else []
        remedy = "another layout.context" if self.context > 1 else "layout.sequence=false"
        raise LayoutError(
            f"sequence length {sequence_length}{behind} cannot be split over {' and '.join(parts)}; "
            f"use {use}, or {remedy}"
        )

    def check_batch(self, global_batch: int, microbatch: int) -> None:
        """Raises LayoutError where the sequences of a global batch do not fill whole microbatches on every replica."""
        for name, size in (("global batch", global_batch), ("microbatch", microbatch)):
            if not _is_size(size):
                raise LayoutError(f"{name} of {size!r} sequences must be a whole number of at least 1")
        unit = self.data * microbatch
        if global_batch % unit:
            above = global_batch + unit - global_batch % unit
            below = global_batch - global_batch % unit
            raise LayoutError(
                f"global batch of {global_batch} sequences is not a multiple of layout.data={self.data} times "
                f"microbatch {microbatch} = {unit}; use {f'{below} or ' if below else ''}{above}, "
                "or another microbatch or layout.data"
            )

    def microbatches(self, global_batch: int, microbatch: int) -> int:
        """Microbatches that each replica works through in one step."""
        self.check_batch(global_batch, microbatch)
        return global_batch // (self.data * microbatch)

    def check_microbatches(self, microbatches: int) -> None:
        """Raises LayoutError where interleaved stages cannot take turns over the microbatches of a step."""
        rest = microbatches % self.pipeline
        if self.virtual_pipeline > 1 and rest:
            below, above = microbatches - rest, microbatches - rest + self.pipeline
            raise LayoutError(
                f"layout.virtual_pipeline={self.virtual_pipeline} works through microbatches in groups of "
                f"layout.pipeline={self.pipeline}, but each replica has {microbatches} in a step; make it "
                f"{f'{below} or ' if below else ''}{above} by another global batch or microbatch, or set "
                "layout.virtual_pipeline=1"
            )

    def check_machine(self, available: int, what: str = "this machine") -> None:
        """Raises LayoutError where the layout needs more than the `available` processes."""
        if self.processes > available:
            raise LayoutError(
                f"{self} needs {self.processes} processes, but {what} carries at most {available}; make layout.tensor, "
                "layout.pipeline, layout.context or layout.data smaller, or start the run under torchrun or SLURM on "
                "more machines"
            )

    def check_world(self, processes: int) -> None:
        """Raises LayoutError where a job of this many processes is not exactly filled."""
        if self.processes != processes:
            shares, rest = divmod(processes, self.processes // self.data)
            remedy = f"set layout.data={shares}" if shares and not rest else "change its sizes or start another number"
            raise LayoutError(f"{self} needs {self.processes} processes, but this job has {processes}; {remedy}")

    def __str__(self) -> str:
        names = ("tensor", "pipeline", "virtual_pipeline", "context", "data")
        sizes = [f"{name.replace('_', ' ')} {getattr(self, name)}" for name in names]
        options = [name.replace("_", " ") for name in OPTIONS if getattr(self, name)]
        shape = " x ".join(size for size in sizes if not size.endswith(" 1")) or "one process"
        if self.recompute:
            options.append(f"recompute {self.recompute if self.recompute == FULL else ' + '.join(self.recompute)}")
        return f"layout of {', '.join([shape, *options])}"


def processes_here(gpus: int = 0) -> int:
    """Processes that this machine carries: one for each GPU, or without GPUs two for each core and at least eight, so
    that any layout can be tried on a laptop."""
    return gpus if gpus else max(8, 2 * cores_here())


def cores_here() -> int:
    """Cores that this process may use, which a batch system or taskset can make fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
