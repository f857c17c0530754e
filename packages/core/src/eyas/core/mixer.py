"""The mixer contract: what a plugin implements.

A mixer maps the normed input x (S, B, D) to a partial sum (S, B, D) over the tensor-parallel ranks. Its weights are the
ones that its Config declares; it communicates nothing. The block around it gathers the input, adds the branches and
reduces the sum once. A mixer whose work follows the tokens, a mixture of experts, says so in its Config and maps this
rank's own tokens to their complete output instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from eyas.core.errors import ConfigError, UnsupportedError
from eyas.core.mixer_config import MixerConfig
from eyas.core.routing import RoutingRule
from eyas.core.weights import Coordinates, Weight

T = TypeVar("T", bound=Tensor)


@dataclass(frozen=True, kw_only=True)
class Placement(Coordinates):
    """Where a module's weights live: this rank's place in the grids of the layout, and the compute dtype."""

    dtype: torch.dtype = torch.float32
    device: str = "cpu"


class Routed(NamedTuple):
    """Which experts a token goes to, and with which weight."""

    weights_TE: Tensor
    """Zero where an expert is not chosen; the auxiliary losses' gradients flow through it."""
    chosen_TE: Tensor
    """True where a token reaches an expert."""
    wanted_TE: Tensor
    """True where it would have without a capacity."""


class Dispatched(Protocol):
    """Tokens where their experts are, sorted by expert, and the way back."""

    @property
    def tokens(self) -> Tensor:
        """(N, width)."""
        ...

    @property
    def counts(self) -> list[int]:
        """How many of the tokens each expert of this rank has; they sum to N."""
        ...

    @property
    def weights(self) -> Tensor:
        """The weight of each token for its expert, (N,)."""
        ...

    def combine(self, outputs: Tensor) -> Tensor:
        """The experts' outputs (N, width), summed for each token and back in place: the shape that was dispatched."""
        ...


class Pieces(Protocol):
    """Where context-parallel ranks share sequences: what a mixer may ask of those that have the other pieces.

    A rank's pieces stand side by side in the batch, so that x is (S, B, D) with a piece in every row: all sequences'
    first pieces, then all sequences' second ones. Every rank of the group must ask for the same, in the same order.
    Where documents are packed, what belongs to another one than a piece's first token is zero.
    """

    @property
    def firsts(self) -> tuple[int, ...]:
        """Position in the whole sequence at which each of the rank's pieces begins."""
        ...

    @property
    def whole_documents_SB(self) -> Tensor | None:
        """`documents_SB` of the whole sequences."""
        ...

    def before(self, x_SBC: Tensor, tokens: int) -> Tensor:
        """The last `tokens` rows of a tensor before each piece, (tokens, B, C), zero in front of the sequence: what a
        convolution begins with. So many rows from the ends of x are enough. Differentiable."""
        ...

    def carried(
        self, state: Tensor, transition: Tensor, apply: Callable[[Tensor, Tensor], Tensor] = torch.mul
    ) -> Tensor:
        """The state before each piece (B, ...) of a recurrence that is linear in it. `state`: (B, ...), the state
        behind each piece if it began with zero; `transition`: (B, ...), what a piece makes of the state before it:
        `apply(transition, before) + state` is the state behind it. Differentiable."""
        ...

    def whole(self, x_SBC: Tensor) -> Tensor:
        """The whole sequences, from all ranks' pieces. Differentiable."""
        ...

    @property
    def by_heads(self) -> bool:
        """Whether the layout asks for whole sequences of some heads rather than `whole` ones of all."""
        ...

    def heads(self, x_SBHP: Tensor) -> Tensor:
        """Whole sequences of this rank's share of the heads, from the rank's pieces of all heads; of fewer heads than
        ranks several ranks have the same one. Differentiable."""
        ...

    def tokens(self, x_SBHP: Tensor) -> Tensor:
        """The way back: the rank's pieces of all heads. Differentiable."""
        ...

    def own_heads(self, x_H: Tensor) -> Tensor:
        """This rank's share of a tensor with an entry for each head."""
        ...


class MixerContext(Protocol):
    """What a mixer may ask of the layout during a forward pass."""

    @property
    def documents_SB(self) -> Tensor | None:
        """Document number of each token of x (S, B), constant within a document; None where there is one document a
        row."""
        ...

    @property
    def pieces(self) -> Pieces | None:
        """How x lies in its sequences where context-parallel ranks share them; None where x is whole."""
        ...

    @property
    def repeats(self) -> bool:
        """Whether this pass repeats one whose values were not kept for the backward pass: whoever counts tokens has
        counted these."""
        ...

    @property
    def lent(self) -> dict[str, Any]:
        """What mixers of the blocks before left for later ones in this pass, by the name that their Config `lends`."""
        ...

    def sum_over_copies(self, partial: Tensor, weight: Weight) -> Tensor:
        """Sum of `partial` over the ranks that hold the same unit of the weight's axis; differentiable. For a norm
        whose statistics span more heads than one rank has."""
        ...

    def route(self, logits_sBE: Tensor, rule: RoutingRule, selection_bias_E: Tensor | None) -> Routed:
        """Experts for each of this rank's tokens, from the router's logits in at least float32. The bias takes part in
        choosing alone."""
        ...

    def dispatch(self, x_sBD: Tensor, routed: Routed, rule: RoutingRule) -> Dispatched:
        """This rank's tokens, sent to their experts."""
        ...

    def sum_over_ranks(self, partial: Tensor) -> Tensor:
        """Sum of `partial` over all tensor-parallel ranks, of which each goes on with its own heads or channels:
        its gradient is summed too. For what every channel is needed for, a norm over all heads or Mamba's dt, B, C."""
        ...


class Mixer(nn.Module):
    """Base of every mixer. Subclasses define `Config` and `forward`, and for decoding `initial_state` and `step`."""

    Config: ClassVar[type[MixerConfig]]

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """The declared weights are attributes."""

    def __init__(self, config: MixerConfig, hidden_size: int, place: Placement) -> None:
        super().__init__()
        self.config = config
        self.hidden_size = hidden_size
        self.place = place
        self.declared = config.weights(hidden_size)
        for name, weight in self.declared.items():
            if weight.trained:
                self.register_parameter(name, empty_parameter(weight, place))
            else:
                self.register_buffer(name, empty_buffer(weight, place))

    def __call__(self, x_SBD: Tensor, context: MixerContext) -> Any:
        """`forward`, and a ConfigError where documents are packed that the mixer would mix, or tokens missing that it
        would not ask for."""
        self._check_carries(context)
        return super().__call__(x_SBD, context)

    def call_on_own_tokens(self, x_sBD: Tensor, context: MixerContext) -> Tensor:
        """`on_own_tokens`, with the same refusal."""
        self._check_carries(context)
        return self.on_own_tokens(x_sBD, context)

    def _check_carries(self, context: MixerContext) -> None:
        if not self.config.carries_documents and context.documents_SB is not None:
            raise ConfigError(f"{self.config.kind} cannot keep packed documents apart; choose another mixer, or unpack")
        if not self.config.carries_context and context.pieces is not None:
            raise ConfigError(
                f"{self.config.kind} cannot share sequences with other ranks; choose another mixer, or layout.context=1"
            )

    def forward(self, x_SBD: Tensor, context: MixerContext) -> Tensor:
        """x: (S, B, D), normed input, whole sequences, or where `context.pieces` is set this rank's pieces of them.
        Returns (S, B, D), this rank's part of the sum."""
        raise UnsupportedError(f"{self.config.kind} has no forward; define it in the mixer")

    def on_own_tokens(self, x_sBD: Tensor, context: MixerContext) -> Tensor:
        """x: (s, B, D), normed input, this rank's own tokens. Returns their complete output, (s, B, D)."""
        raise UnsupportedError(f"{self.config.kind} says that it owns_tokens; define on_own_tokens in the mixer")

    def after_batch(self, total: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Called once per global batch, after its backward passes, for what rules rather than gradients change. `total`
        sums a tensor over the ranks that saw other tokens. Returns figures for the log, by name."""
        return {}

    def initial_state(self, batch: int) -> Any:
        """Decoding state before the first token, for `batch` sequences: tensors and numbers in tuples, lists and dicts.
        Every tensor has one dimension that runs over the sequences."""
        raise UnsupportedError(f"{self.config.kind} does not decode; define initial_state and step in the mixer")

    def step(self, x_BD: Tensor, state: Any, context: MixerContext) -> tuple[Tensor, Any]:
        """One token: x (B, D) and the state so far to the output (B, D) and the next state; equal to `forward`. The
        state that it was given stays as it is, so that a text can be continued in several ways."""
        raise UnsupportedError(f"{self.config.kind} does not decode; define initial_state and step in the mixer")

    def prefill(self, x_SBD: Tensor, state: Any, context: MixerContext) -> tuple[Tensor, Any]:
        """Several tokens: x (S, B, D) and the state so far to the outputs (S, B, D) and the next state. Step by step,
        unless a mixer knows how to do it in one pass."""
        outputs = []
        for x_BD in x_SBD:
            y_BD, state = self.step(x_BD, state, context)
            outputs.append(y_BD)
        return torch.stack(outputs), state

    def bias_after_sum(self) -> Tensor | None:
        """What is added once to the sum over the ranks, (D,): the declared `output_bias`, if there is one."""
        return getattr(self, "output_bias", None)

    def local(self, name: str) -> int:
        """Units of the named weight's axis that this rank holds (its number of heads, groups or neurons)."""
        weight = self.declared[name]
        assert weight.axis is not None
        return weight.axis.local_units(self.place.expert_tensor if weight.expert else self.place.tensor)


def empty_parameter(weight: Weight, place: Placement) -> nn.Parameter:
    """An unfilled parameter for this rank's part of `weight`; `held` finds its declaration and place again."""
    return _declared(nn.Parameter(_empty(weight, place)), weight, place)


def empty_buffer(weight: Weight, place: Placement) -> Tensor:
    """The same for a tensor that is not trained."""
    return _declared(_empty(weight, place), weight, place)


def _empty(weight: Weight, place: Placement) -> Tensor:
    dtype = torch.float32 if weight.float32 and place.dtype.itemsize < 4 else place.dtype
    return torch.empty(weight.local_shape(place), dtype=dtype, device=place.device)


def _declared(tensor: T, weight: Weight, place: Coordinates) -> T:
    """The tensor, with an attribute that torch's types know nothing of."""
    tensor.declared = Declared(weight, place)  # type: ignore[attr-defined]  # tensors declare no such attribute
    return tensor


class Declared(NamedTuple):
    """What a tensor was declared as, and whose part of it this is."""

    weight: Weight
    place: Coordinates


class Held(NamedTuple):
    """A declared tensor as one rank holds it."""

    name: str
    tensor: Tensor
    weight: Weight
    place: Coordinates


def held(model: nn.Module) -> Iterator[Held]:
    """Every declared tensor of a model by its global name: the parameters, then what is not trained."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if hasattr(tensor, "declared"):
            yield Held(name, tensor, *tensor.declared)
