"""One place of a shared block: weights that other places use too, between adapters and a projection of its own."""

# s this rank's part of the sequence, B batch, D hidden

from torch import Tensor, nn

from eyas.core.block_config import BlockSpec
from eyas.core.mixer import Placement
from eyas.core.model import ModelSpec
from eyas.layers.adapters import Adapters
from eyas.layers.block import Branches, behind, projection
from eyas.layers.recompute import block_output
from eyas.parallel.context import Context


class SharedUse(nn.Module):
    """Stands where a Block stands; the gradients of all places add up in the shared weights."""

    def __init__(self, spec: ModelSpec, block: BlockSpec, place: Placement, shared: Branches) -> None:
        super().__init__()
        self.options = block.options
        self.shared = (shared,)  # in a tuple: the model lists the shared weights once, by their own name
        declared = block.adapters(spec.layers, spec.hidden_size)
        self.adapters = nn.ModuleDict(
            {layer: Adapters(declared[layer], groups, place) for layer, groups in block.options.adapters.items()}
        )
        self.projection = projection(spec, block, place)

    def output(self, x_sBD: Tensor, context: Context) -> Tensor:
        """What the block writes, (s, B, D), for what it reads, x: (s, B, D or twice that)."""
        return block_output(self.computed, context, x_sBD)

    def computed(self, context: Context, x_sBD: Tensor) -> Tensor:
        """`output`, computed once."""
        return behind(self.shared[0].mixed(x_sBD, context, self.changed()), self.projection, self.options)

    def initial_state(self, batch: int) -> list[object]:
        """Decoding state of every branch in this place."""
        return self.shared[0].initial_state(batch)

    def further_output(self, x_SBD: Tensor, states: list[object], context: Context) -> tuple[Tensor, list[object]]:
        """Further tokens: what the block writes, (S, B, D), and the branches' next states."""
        y_SBD, states = self.shared[0].mixed_further(x_SBD, states, context, self.changed())
        return behind(y_SBD, self.projection, self.options), states

    def changed(self) -> dict[str, dict[str, Tensor]]:
        """The shared weights as this place uses them, where it has adapters."""
        branches = self.shared[0].branches
        return {layer: adapters(branches[layer]) for layer, adapters in self.adapters.items()}
