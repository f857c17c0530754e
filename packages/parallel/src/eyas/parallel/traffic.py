"""What a piece of work communicates: every collective with its kind and size, forward and backward, counted.

with Traffic() as forward:
    y = block(x, context)
with Traffic() as backward:
    y.sum().backward()
assert forward.counts == {"all_gather": 1, "reduce_scatter": 1}
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

KINDS = {
    "_allgather_base_": "all_gather",
    "allgather_": "all_gather",
    "_reduce_scatter_base_": "reduce_scatter",
    "reduce_scatter_": "reduce_scatter",
    "allreduce_": "all_reduce",
    "alltoall_base_": "all_to_all",
    "alltoall_": "all_to_all",
    "broadcast_": "broadcast",
    "send": "send",
    "recv_": "receive",
}
"""torch's names of collectives (torch.ops.c10d) and ours; any other keeps its name."""


@dataclass(frozen=True)
class Collective:
    """One call on one rank."""

    kind: str
    bytes: int
    """Of the whole tensor: what an all-gather gives, what enters a reduce-scatter."""
    ranks: int

    @property
    def sent(self) -> float:
        """Bytes that a rank sends where the ranks form a ring; all-reduce is reduce-scatter and all-gather (Thakur et
        al., 2005)."""
        share = (self.ranks - 1) / self.ranks
        shares = {"all_reduce": 2 * share, "send": 1.0, "receive": 0.0}
        return shares.get(self.kind, share) * self.bytes


class Traffic(TorchDispatchMode):
    """Collects the calls of torch.distributed that are made inside, those of a backward pass on the CPU included."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Collective] = []

    @property
    def counts(self) -> dict[str, int]:
        """Number of calls of each kind."""
        return dict(Counter(call.kind for call in self.calls))

    @property
    def sent(self) -> float:
        """Bytes that this rank sends."""
        return sum(call.sent for call in self.calls)

    def __torch_dispatch__(self, function: OpOverload, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function.namespace == "c10d":
            named = dict(zip((argument.name for argument in function._schema.arguments), args, strict=False))
            group = dist.ProcessGroup.unbox(named["process_group"])
            name = function.overloadpacket.__name__
            whole = max(sum(tensor.nbytes for tensor in tensors(value)) for value in args)
            self.calls.append(Collective(KINDS.get(name, name), whole, group.size()))
        return function(*args, **(kwargs or {}))


def tensors(value: object) -> Iterator[Tensor]:
    """The tensors in nested lists."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors(part)
