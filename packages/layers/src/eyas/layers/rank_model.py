"""The part of a model that one rank of a layout holds: what is trained, and what is proved."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from eyas.core.mixer import Placement
from eyas.core.model import ModelSpec
from eyas.layers.model import HybridLM, Stage
from eyas.parallel import this_rank
from eyas.parallel.context import Context
from eyas.parallel.fits import check_fits
from eyas.parallel.layout import Layout
from eyas.parallel.options import OptimizerOptions
from eyas.parallel.parts import check_parts
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


def check_optimizer(spec: ModelSpec, options: OptimizerOptions) -> None:
    """Raises ConfigError where the optimizer's options speak of parts that the model has not."""
    check_parts(HybridLM(spec, Context(place=Placement(device="meta"))), options)


def learning_rates(stages: Sequence[HybridLM]) -> dict[str, float]:
    """Factors that the weights of a rank's stages ask for; see `HybridLM.learning_rates`."""
    return {name: rate for stage in stages for name, rate in stage.learning_rates.items()}
