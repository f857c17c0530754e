"""What a layout may be by itself: the values of its options, and which of them go together."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Literal, get_args, get_origin, get_type_hints

from eyas.core.errors import LayoutError
from eyas.core.recompute import FULL

if TYPE_CHECKING:
    from eyas.parallel.layout import Layout


def check_values(layout: Layout) -> None:
    """Raises LayoutError for a value that is not of its option's type."""
    types = get_type_hints(type(layout))
    for field in fields(layout):
        value, type_ = getattr(layout, field.name), types[field.name]
        if field.name == "stages":
            check_stages(value)
        elif field.name == "recompute":
            check_recompute(value)
        elif get_origin(type_) is Literal:
            if value not in get_args(type_):
                raise LayoutError(f"layout.{field.name}={value!r} must be one of {', '.join(get_args(type_))}")
        elif type_ is bool:
            if not isinstance(value, bool):
                raise LayoutError(f"layout.{field.name}={value!r} must be true or false")
        elif not (value is None and field.default is None) and not is_size(value):
            raise LayoutError(f"layout.{field.name}={value!r} must be a whole number of at least 1")


def check_stages(stages: object) -> None:
    """Raises LayoutError for what is no way of dividing the blocks over stages."""
    if stages not in (None, "auto") and not (isinstance(stages, tuple) and all(map(is_size, stages))):
        shown = list(stages) if isinstance(stages, tuple) else stages
        raise LayoutError(f"layout.stages={shown} must be auto, or each stage's number of blocks, at least 1")


def check_recompute(recompute: object) -> None:
    """Raises LayoutError for what is neither whole blocks nor roles."""
    if recompute != FULL and not (isinstance(recompute, tuple) and all(isinstance(role, str) for role in recompute)):
        raise LayoutError(f"layout.recompute={recompute!r} must be full, or a list of roles")


def check_combination(layout: Layout) -> None:
    """Raises LayoutError for options that the sizes leave nothing to do, and for experts whose grid does not fit."""
    if layout.overlap and layout.data * layout.context == 1:
        raise LayoutError(
            "layout.overlap=true reduces gradients over replicas, but layout.data=1; set layout.data=2 or more, or "
            "layout.overlap=false"
        )
    if layout.virtual_pipeline > 1 and layout.pipeline == 1:
        raise LayoutError(
            f"layout.virtual_pipeline={layout.virtual_pipeline} interleaves the stages of several pipeline "
            "processes, but layout.pipeline=1; set layout.pipeline=2 or more, or layout.virtual_pipeline=1"
        )
    if layout.sequence and layout.tensor == 1:
        raise LayoutError(
            "layout.sequence=true splits sequences over the tensor-parallel processes, but layout.tensor=1; "
            "set layout.tensor=2 or more, or layout.sequence=false"
        )
    if layout.branches != "together" and layout.tensor % 2:
        raise LayoutError(
            f"layout.branches={layout.branches} needs two halves, but layout.tensor={layout.tensor}; use an even number"
        )
    for name in ("context_order", "context_exchange"):
        value = getattr(layout, name)
        if layout.context == 1 and value != getattr(type(layout), name):
            raise LayoutError(
                f"layout.{name}={value} says how processes share a sequence, but layout.context=1; "
                "set layout.context=2 or more, or leave it out"
            )
    stage, grid = layout.tensor * layout.context * layout.data, layout.expert * layout.inside_experts
    if stage % grid:
        inside = "tensor" if layout.expert_tensor is None else "expert_tensor"
        raise LayoutError(
            f"layout.expert={layout.expert} times layout.{inside}={layout.inside_experts} is {grid}, which does not "
            f"divide the {stage} processes of a pipeline stage (tensor x context x data); set "
            "layout.expert_tensor=1, or change layout.expert or layout.data"
        )
    if grid == 1 and layout.dispatcher != type(layout).dispatcher:
        raise LayoutError(
            f"layout.dispatcher={layout.dispatcher} sends tokens to experts on other processes, but every process has "
            "all experts whole; set layout.expert=2 or more, or leave it out"
        )


def is_size(value: object) -> bool:
    """Whether the value is a whole number of at least one."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
