"""What a model must be like for the two branches of its blocks to lie on halves of the tensor-parallel ranks."""

from dataclasses import replace

from eyas.core.errors import LayoutError
from eyas.core.model import ModelSpec
from eyas.parallel.layout import Layout


def check_split(spec: ModelSpec, layout: Layout) -> None:
    """Raises LayoutError, which names the layer, where the layout cannot divide the weights of a model's branches."""
    at = layout.coordinates
    blocks = [*spec.blocks, *(block for depth in spec.tail for block in depth)]
    if layout.branches != "together" and not any(block.pairs for block in blocks):
        raise LayoutError(
            f"layout.branches={layout.branches} divides blocks of two branches, and the model has none; leave it out"
        )
    for block in blocks:
        halved = block.pairs and layout.branches != "together"
        where = replace(at, tensor=at.tensor // 2) if halved else at
        for name in block.layers:
            mixer = spec.layers[name]
            try:
                mixer.check_split(spec.hidden_size, where)
            except LayoutError as error:
                half = " (each branch lies on half of the ranks)" if halved else ""
                raise LayoutError(f"model.layers.{name}: {error}{half}") from error
            if halved and (mixer.lends is not None or mixer.borrows is not None):
                raise LayoutError(
                    f"layout.branches={layout.branches} cannot divide model.layers.{name}, which shares "
                    f"{mixer.lends or mixer.borrows!r} with other blocks; use layout.branches=together"
                )
            if halved and (mixer.owns_tokens or "output_bias" in mixer.weights(spec.hidden_size)):
                what = "works on each rank's own tokens" if mixer.owns_tokens else "adds an output bias on every rank"
                raise LayoutError(
                    f"layout.branches={layout.branches} cannot put model.layers.{name} ({mixer.kind}) on half of the "
                    f"ranks: it {what}; use layout.branches=together"
                )
        if halved and block.options.adapters:
            raise LayoutError(
                f"layout.branches={layout.branches} cannot divide blocks.{block.name}, whose adapters change both "
                "branches; use layout.branches=together"
            )
