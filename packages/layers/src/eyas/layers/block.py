"""A block: norm, mixers side by side, one residual add. The block owns the communication; its mixers have none."""

# S sequence, s this rank's part of it, B batch, D hidden

from functools import reduce
from operator import add

from torch import Tensor, nn

from eyas.core.mixer import Mixer, Placement
from eyas.core.model import ModelSpec
from eyas.core.registry import mixer
from eyas.layers.norm import RMSNorm
from eyas.parallel.context import Context


class Block(nn.Module):
    """h + sum of branch(norm(h)): one gather and one reduction whatever the number of branches; none for those that
    work on each rank's own tokens."""

    def __init__(self, spec: ModelSpec, layers: tuple[str, ...], place: Placement) -> None:
        super().__init__()
        self.norm = RMSNorm(spec.hidden_size, spec.norm_epsilon, place)
        self.branches = nn.ModuleDict(
            {name: mixer(spec.layers[name].kind).mixer(spec.layers[name], spec.hidden_size, place) for name in layers}
        )

    def forward(self, h_sBD: Tensor, context: Context) -> Tensor:
        """h: (s, B, D), the residual stream. Returns the same shape."""
        x_sBD = self.norm(h_sBD)
        outputs = [branch.on_own_tokens(x_sBD, context) for branch in self.mixers() if branch.config.owns_tokens]
        readers = [branch for branch in self.mixers() if branch.config.sees_sequence]
        if readers:
            x_SBD = context.gather(x_sBD)
            outputs.append(context.reduce(total([branch(x_SBD, context) for branch in readers])))
        return self.add(h_sBD, total(outputs))

    def initial_state(self, batch: int) -> list[object]:
        """Decoding state of every branch."""
        return [branch.initial_state(batch) for branch in self.mixers()]

    def step(self, h_BD: Tensor, states: list[object], context: Context) -> tuple[Tensor, list[object]]:
        """One token: h (B, D) and the branches' states to the new residual and states."""
        x_BD = self.norm(h_BD)
        outputs = [
            branch.on_own_tokens(x_BD[None], context)[0] for branch in self.mixers() if branch.config.owns_tokens
        ]
        readers = [index for index, branch in enumerate(self.mixers()) if branch.config.sees_sequence]
        after = list(states)
        if readers:
            gathered_BD, partial = context.gather(x_BD), []
            for index in readers:
                y_BD, after[index] = self.mixers()[index].step(gathered_BD, states[index], context)
                partial.append(y_BD)
            outputs.append(context.reduce(total(partial)))
        return self.add(h_BD, total(outputs)), after

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


def total(outputs: list[Tensor]) -> Tensor:
    """The sum of at least one tensor."""
    return reduce(add, outputs)
