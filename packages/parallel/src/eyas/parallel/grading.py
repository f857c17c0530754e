"""Each token of a global batch graded under any layout: its loss, and whether the model's first choice is its label.

A pass of Megatron-Core's schedule leaves the last stage's ranks with tables of their own tokens; here they become one.
"""

# N grades, S sequence, s tokens of a piece, B sequences of a microbatch or batch

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from eyas.parallel.layout import Layout
from eyas.parallel.losses import HIT, LOSS, Losses
from eyas.parallel.megatron import parallel_state
from eyas.parallel.own_pieces import OwnPieces
from eyas.parallel.this_rank import device_here, replica_here

GRADES = (LOSS, HIT)


def grade_step(microbatches: Iterator[Mapping[str, Tensor]], stage: nn.Module) -> tuple[Tensor, Any]:
    """The next microbatch through a stage; what Megatron-Core's schedules call."""
    return stage(next(microbatches), graded=True), table


def table(losses: Losses) -> tuple[Tensor, Tensor, Tensor]:
    """A sum and a count that schedules ask for and no one reads, and the grades of this rank's tokens (N, s, B)."""
    grades = torch.stack([losses.parts[name].double() for name in GRADES])
    return losses.minimised_SB.sum(), torch.ones((), dtype=torch.int, device=grades.device), grades


def whole_table(tables: Sequence[Tensor], rows: int, length: int, layout: Layout, own: OwnPieces | None) -> Tensor:
    """The grades of all replicas' sequences (N, B, S) on every rank, from the tables of the last stage's microbatches.

    rows: sequences of this replica; length: positions of a sequence, meta tokens among them where ranks share it.
    """
    shape = len(GRADES), layout.data * rows, length
    whole = torch.zeros(shape, dtype=torch.float64, device=device_here())
    if tables:
        first = replica_here() * rows
        for grades in tables:
            pieces = grades.transpose(1, 2).chunk(1 if own is None else own.each, dim=1)
            last = first + pieces[0].shape[1]
            for number, piece in zip((0,) if own is None else own.numbers, pieces, strict=True):
                start = number * piece.shape[2]
                whole[:, first:last, start : start + piece.shape[2]] = piece
            first = last
        dist.all_reduce(whole, group=parallel_state.get_data_parallel_group(with_context_parallel=True))
    if layout.pipeline > 1:
        end = parallel_state.get_pipeline_model_parallel_last_rank()
        dist.broadcast(whole, end, group=parallel_state.get_pipeline_model_parallel_group())
    return whole
