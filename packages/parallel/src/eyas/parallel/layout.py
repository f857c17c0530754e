"""How a model is spread over processes, and what such a layout demands of the machine and the batch."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Literal

from eyas.core.counted import counted
from eyas.core.errors import LayoutError
from eyas.core.recompute import Recompute
from eyas.core.weights import BranchPlaces, Coordinates
from eyas.parallel.layout_rules import check_combination, check_values, is_size

Dispatcher = Literal["alltoall", "allgather"]
Cut = Literal["auto"]
ContextOrder = Literal["zigzag", "contiguous"]
ContextExchange = Literal["gather", "alltoall"]
SIZES = ("tensor", "pipeline", "context", "data")
"""Fields whose product is the number of processes."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of each kind of parallelism and the options that go with them. The number of processes is `tensor` x
    `pipeline` x `context` x `data`; experts lie on the same ones."""

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
    take all tokens of a part of the heads (attention, Mamba-2, linear attention, Gated DeltaNet)."""
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
        check_values(self)
        check_combination(self)

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
        return prod(getattr(self, name) for name in SIZES)

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
            if not is_size(size):
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
            needed = counted(self.processes, "process", "processes")
            raise LayoutError(f"{self} needs {needed}, but this job has {processes}; {remedy}")

    def __str__(self) -> str:
        sizes = [f"{name} {getattr(self, name)}" for name in SIZES if getattr(self, name) > 1]
        others = [field for field in fields(self) if field.name not in SIZES]
        options = [_shown(field.name, getattr(self, field.name)) for field in others if self._chooses(field.name)]
        return f"layout of {', '.join([' x '.join(sizes) or 'one process', *options])}"

    def _chooses(self, name: str) -> bool:
        """Whether an option is other than what it is unless set."""
        return bool(getattr(self, name) != getattr(Layout, name))


def processes_here(gpus: int = 0) -> int:
    """Processes that this machine carries: one for each GPU, or without GPUs two for each core and at least eight, so
    that any layout can be tried on a laptop."""
    return gpus if gpus else max(8, 2 * cores_here())


def cores_here() -> int:
    """Cores that this process may use, which a batch system or taskset can make fewer than the machine has."""
    return len(os.sched_getaffinity(0))


def _shown(name: str, value: object) -> str:
    """An option in words: a switch is its name, a list its parts."""
    words = name.replace("_", " ")
    if value is True:
        return words
    return f"{words} {' + '.join(map(str, value)) if isinstance(value, tuple) else value}"
