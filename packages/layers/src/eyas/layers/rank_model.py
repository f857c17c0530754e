"""The part of a model that one rank of a layout holds: what is trained, and what is proved."""

from __future__ import annotations

import torch

from eyas.core.model import ModelSpec
from eyas.core.recompute import check_recompute
from eyas.layers.model import HybridLM, Stage
from eyas.parallel.branches import check_split
from eyas.parallel.engine import context_here, stage_here
from eyas.parallel.layout import Layout
from eyas.parallel.stages import stages_of


def model_here(spec: ModelSpec, layout: Layout, dtype: torch.dtype, seed: int) -> HybridLM:
    """This rank's stage of the model and its share of every weight, drawn from `seed`; after
    `groups.initialise(layout)`. Raises LayoutError where the layout cannot divide it, or recomputes what it lacks."""
    check_split(spec, layout)
    check_recompute(layout.recompute, spec)
    here = stage_here()
    blocks = stages_of(spec, layout.pipeline)[here]
    stage = Stage(blocks, first=here == 0, last=here == layout.pipeline - 1)
    return HybridLM(spec, context_here(layout, dtype), stage).initialise(seed)
