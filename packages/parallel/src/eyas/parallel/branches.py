"""What a model must be like for the two branches of its blocks to lie on halves of the tensor-parallel ranks."""

from eyas.core.block_config import BlockSpec
from eyas.core.errors import LayoutError
from eyas.core.model import ModelSpec
from eyas.parallel.layout import Layout


def halves(block: BlockSpec, layout: Layout) -> bool:
    """Whether each branch of the block lies on a half of the ranks."""
    return block.pairs and layout.branches != "together"


def check_halves(spec: ModelSpec, layout: Layout) -> None:
    """Raises LayoutError, which names the layer, where `layout.branches` cannot divide a model's blocks."""
    if layout.branches != "together" and not any(block.pairs for block in spec.all_blocks):
        raise LayoutError(
            f"layout.branches={layout.branches} divides blocks of two branches, and the model has none; leave it out"
        )
    for block in (block for block in spec.all_blocks if halves(block, layout)):
        for name in block.layers:
            mixer = spec.layers[name]
            if mixer.lends is not None or mixer.borrows is not None:
                raise LayoutError(
                    f"layout.branches={layout.branches} cannot divide model.layers.{name}, which shares "
                    f"{mixer.lends or mixer.borrows!r} with other blocks; use layout.branches=together"
                )
            if mixer.owns_tokens or "output_bias" in mixer.weights(spec.hidden_size):
                what = "works on each rank's own tokens" if mixer.owns_tokens else "adds an output bias on every rank"
                raise LayoutError(
                    f"layout.branches={layout.branches} cannot put model.layers.{name} ({mixer.kind}) on half of the "
                    f"ranks: it {what}; use layout.branches=together"
                )
        if block.options.adapters:
            raise LayoutError(
                f"layout.branches={layout.branches} cannot divide blocks.{block.name}, whose adapters change both "
                "branches; use layout.branches=together"
            )
