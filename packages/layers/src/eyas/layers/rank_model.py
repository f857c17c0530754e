"""The part of a model that one rank of a layout holds: what is trained, and what is proved."""

from __future__ import annotations

import torch

from eyas.core.model import ModelSpec
from eyas.layers.model import HybridLM, Stage
from eyas.parallel import this_rank
from eyas.parallel.fits import check_fits
from eyas.parallel.layout import Layout
from eyas.parallel.stages import stages_of


def stages_here(spec: ModelSpec, layout: Layout, dtype: torch.dtype, seed: int, sequence_length: int) -> list[HybridLM]:
    """This rank's stages of the model, in order, and its share of every weight, drawn from `seed`; after
    `groups.initialise(layout)`. Raises LayoutError where the layout cannot carry the model."""
    check_fits(spec, layout, sequence_length)
    cut, last = stages_of(spec, layout, sequence_length), layout.stage_count - 1
    context = this_rank.context_here(layout, dtype)
    return [
        HybridLM(spec, context, Stage(cut[number], first=number == 0, last=number == last)).initialise(seed)
        for number in this_rank.stages_here(layout)
    ]
