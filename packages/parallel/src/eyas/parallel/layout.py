"""How a model is spread over processes, and what such a layout demands of the machine and the batch."""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

from eyas.core.errors import LayoutError
from eyas.core.recompute import FULL, Recompute
from eyas.core.weights import BranchPlaces, Coordinates

Dispatcher = Literal["alltoall", "allgather"]
CHOICES = {"dispatcher": Dispatcher, "branches": BranchPlaces}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Sizes of each kind of parallelism; their product is the number of processes."""

    tensor: int = 1
    """Processes that share each layer's weights."""
    sequence: bool = False
    """Split activations along the sequence between blocks, over the tensor-parallel processes."""
    pipeline: int = 1
    """Stages that the blocks are divided into."""
    virtual_pipeline: int = 1
    """Interleaved stages on each pipeline process."""
    context: int = 1
    """Processes that share each sequence."""
    expert: int = 1
    """Processes that share the experts of each mixture."""
    expert_tensor: int | None = None
    """Tensor-parallel size inside experts; None means the same as `tensor`. Experts lie on the processes of a pipeline
    stage in a grid of their own, `expert_tensor` x `expert` x as many replicas as remain."""
    data: int = 1
    """Replicas, each working on its own part of the batch."""
    distributed_optimizer: bool = False
    """Split the optimizer's state over the replicas."""
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
            elif field.name in CHOICES:
                if size not in get_args(CHOICES[field.name]):
                    allowed = ", ".join(get_args(CHOICES[field.name]))
                    raise LayoutError(f"layout.{field.name}={size!r} must be one of {allowed}")
            elif field.type == "bool":
                if not isinstance(size, bool):
                    raise LayoutError(f"layout.{field.name}={size!r} must be true or false")
            elif not (size is None and field.default is None) and not _is_size(size):
                raise LayoutError(f"layout.{field.name}={size!r} must be a whole number of at least 1")
        for name, neutral in (("virtual_pipeline", 1), ("context", 1)):
            if getattr(self, name) not in (neutral, 1):
                raise LayoutError(
                    f"layout.{name}={getattr(self, name)} is not supported yet; leave it out, and use layout.tensor, "
                    "layout.pipeline or layout.data"
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

    def check_sequence(self, sequence_length: int, meta_tokens: int = 0) -> None:
        """Raises LayoutError where sequence parallelism cannot split sequences of this length behind the model's
        `meta_tokens`."""
        rest = (sequence_length + meta_tokens) % self.tensor
        if self.sequence and rest:
            behind = f" behind {meta_tokens} meta tokens" if meta_tokens else ""
            fitting = sequence_length + self.tensor - rest
            unit = str(fitting) if meta_tokens else f"a multiple of {self.tensor} such as {fitting}"
            raise LayoutError(
                f"sequence length {sequence_length}{behind} cannot be split over layout.tensor={self.tensor} with "
                f"layout.sequence=true; use {unit}, or layout.sequence=false"
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

    def check_machine(self, available: int, what: str = "this machine") -> None:
        """Raises LayoutError where the layout needs more than the `available` processes."""
        if self.processes > available:
            raise LayoutError(
                f"{self} needs {self.processes} processes, but {what} carries at most {available}; make layout.tensor, "
                "layout.pipeline or layout.data smaller, or start the run under torchrun or SLURM on more machines"
            )

    def check_world(self, processes: int) -> None:
        """Raises LayoutError where a job of this many processes is not exactly filled."""
        if self.processes != processes:
            shares, rest = divmod(processes, self.processes // self.data)
            remedy = f"set layout.data={shares}" if shares and not rest else "change its sizes or start another number"
            raise LayoutError(f"{self} needs {self.processes} processes, but this job has {processes}; {remedy}")

    def __str__(self) -> str:
        sizes = [f"{name} {getattr(self, name)}" for name in ("tensor", "pipeline", "context", "data")]
        options = [name.replace("_", " ") for name in ("sequence", "distributed_optimizer") if getattr(self, name)]
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
