"""Whether a layout can carry a model: checked before a run starts any process, and where a rank builds its part."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from eyas.core.errors import LayoutError
from eyas.core.mixer_config import MixerConfig
from eyas.core.model import ModelSpec
from eyas.core.recompute import check_recompute
from eyas.core.weights import Coordinates
from eyas.parallel.branches import check_halves, halves
from eyas.parallel.layout import Layout
from eyas.parallel.stages import stages_of


def check_fits(spec: ModelSpec, layout: Layout, sequence_length: int) -> None:
    """Raises LayoutError, which names the layer, where the layout cannot carry the model on sequences of this length,
    or has an option that the model leaves nothing to do."""
    layout.check_sequence(sequence_length, spec.meta_tokens)
    at, used = layout.coordinates, spec.used_layers
    for name, mixer in used.items():
        check_tokens(name, mixer, layout)
    check_options(used.values(), layout)
    check_halves(spec, layout)
    for block in spec.all_blocks:
        half = halves(block, layout)
        for name in block.layers:
            check_split(name, spec, layout, replace(at, tensor=at.tensor // 2) if half else at)
    check_recompute(layout.recompute, spec)
    stages_of(spec, layout, sequence_length)


def check_tokens(name: str, mixer: MixerConfig, layout: Layout) -> None:
    """Raises LayoutError where a mixer cannot work on what tokens the layout gives a rank."""
    if mixer.owns_tokens and layout.tensor > 1 and not layout.sequence:
        raise LayoutError(
            f"model.layers.{name} ({mixer.kind}) works on each rank's own tokens, so layout.tensor={layout.tensor} "
            "needs layout.sequence=true"
        )
    if layout.context > 1 and not mixer.carries_context:
        raise LayoutError(
            f"layout.context={layout.context}, but model.layers.{name} ({mixer.kind}) cannot share sequences with "
            "other ranks; choose another mixer or layout.context=1"
        )


def check_options(mixers: Collection[MixerConfig], layout: Layout) -> None:
    """Raises LayoutError for an option about mixers that the model has none of."""
    if layout.context_exchange == "alltoall" and not any(mixer.exchanges_heads for mixer in mixers):
        raise LayoutError(
            f"layout.context_exchange={layout.context_exchange} exchanges heads, but no layer of the model does that; "
            "leave it out"
        )
    if not any(mixer.owns_tokens for mixer in mixers):
        for field in ("dispatcher", "expert", "expert_tensor"):
            value = getattr(layout, field)
            if value != getattr(Layout, field):
                raise LayoutError(f"layout.{field}={value} is about experts, and the model has none; leave it out")


def check_split(name: str, spec: ModelSpec, layout: Layout, at: Coordinates) -> None:
    """Raises LayoutError where the ranks `at` cannot divide a layer's weights, or the heads that they exchange."""
    mixer = spec.layers[name]
    try:
        mixer.check_split(spec.hidden_size, at)
        if layout.context_exchange == "alltoall":
            mixer.check_exchange(spec.hidden_size, at.tensor, layout.context)
    except LayoutError as error:
        half = "" if at.tensor == layout.tensor else " (each branch lies on half of the ranks)"
        raise LayoutError(f"model.layers.{name}: {error}{half}") from error
