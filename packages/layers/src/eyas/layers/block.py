"""A block: norm, mixers side by side, one residual add. The block owns the communication; its mixers have none."""

# S sequence, s this rank's part of it, B batch, D hidden

from torch import Tensor, nn

from eyas.core.mixer import Mixer, Placement
from eyas.core.model import ModelSpec
from eyas.core.registry import mixer
from eyas.layers.norm import RMSNorm
from eyas.parallel.context import Context


class Block(nn.Module):
    """h + sum of branch(norm(h)): one gather and one reduction whatever the number of branches."""

    def __init__(self, spec: ModelSpec, layers: tuple[str, ...], place: Placement) -> None:
        super().__init__()
        self.norm = RMSNorm(spec.hidden_size, spec.norm_epsilon, place)
        self.branches = nn.ModuleDict(
            {name: mixer(spec.layers[name].kind).mixer(spec.layers[name], spec.hidden_size, place) for name in layers}
        )

    def forward(self, h_sBD: Tensor, context: Context) -> Tensor:
        """h: (s, B, D), the residual stream. Returns the same shape."""
        x_SBD = context.gather(self.norm(h_sBD))
        mixers = self.mixers()
        partial_SBD = mixers[0](x_SBD, context)
        for branch in mixers[1:]:
            partial_SBD = partial_SBD + branch(x_SBD, context)
        return self.add(h_sBD, context.reduce(partial_SBD))

    def initial_state(self, batch: int) -> list[object]:
        """Decoding state of every branch."""
        return [branch.initial_state(batch) for branch in self.mixers()]

    def step(self, h_BD: Tensor, states: list[object], context: Context) -> tuple[Tensor, list[object]]:
        """One token: h (B, D) and the branches' states to the new residual and states."""
        x_BD = context.gather(self.norm(h_BD))
        results = [branch.step(x_BD, state, context) for branch, state in zip(self.mixers(), states, strict=True)]
        total = context.reduce(sum((y for y, _ in results[1:]), start=results[0][0]))
        return self.add(h_BD, total), [state for _, state in results]

    def prefill(self, h_SBD: Tensor, states: list[object], context: Context) -> tuple[Tensor, list[object]]:
        """Several tokens: h (S, B, D) and the branches' states to the new residual and states."""
        x_SBD = context.gather(self.norm(h_SBD))
        results = [branch.prefill(x_SBD, state, context) for branch, state in zip(self.mixers(), states, strict=True)]
        total = context.reduce(sum((y for y, _ in results[1:]), start=results[0][0]))
        return self.add(h_SBD, total), [state for _, state in results]

    def add(self, h: Tensor, branches: Tensor) -> Tensor:
        """The residual add, with what the branches add once after the sum over the ranks."""
        for branch in self.mixers():
            bias = branch.bias_after_sum()
            if bias is not None:
                branches = branches + bias
        return h + branches

    def mixers(self) -> list[Mixer]:
        """The branches in pattern order."""
        return list(self.branches.values())  # type: ignore[arg-type]
