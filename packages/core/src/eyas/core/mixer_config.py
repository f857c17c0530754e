"""What a mixer declares about itself, without torch: options, weights and costs."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from eyas.core.errors import ConfigError, UnsupportedError
from eyas.core.weights import WHOLE, Coordinates, Weight

if TYPE_CHECKING:
    from eyas.core.mup import MupLaw

FlopConvention = Literal["exact", "megatron"]
"""`exact` counts the operations of the configured model; `megatron` uses Megatron-LM's published simplifications."""


@dataclass(frozen=True, kw_only=True)
class MixerConfig:
    """Base of every mixer's `Config`: fields are what YAML may set; the methods answer for weights and costs.

    Subclasses validate in `__post_init__` and raise ConfigError with the field, the value, the rule and the remedy.
    All costs are for one mixer; `hidden_size` is the width of the residual stream.
    """

    kind: ClassVar[str]
    """The registered name; set by `register`."""
    role: ClassVar[str] = ""
    """What it is to those who choose parts of any model, such as what is recomputed: `attention`, `ssm`, `mlp`, `moe`
    or a name of its own; the registered name where the mixer does not say."""
    carries_documents: ClassVar[bool] = False
    """Whether packed documents are kept apart; a mixer that says no refuses them."""
    carries_context: ClassVar[bool] = False
    """Whether sequences may be shared by context-parallel ranks: the mixer asks `MixerContext.pieces` for what it needs
    of the other pieces, or needs nothing of them. A mixer that says no refuses."""
    exchanges_heads: ClassVar[bool] = False
    """Whether under `layout.context_exchange=alltoall` the mixer works on all tokens of a share of each of its axes
    (`Pieces.heads`, `Pieces.tokens`), instead of asking for the others' tokens or states."""
    owns_tokens: ClassVar[bool] = False
    """Whether the mixer works on each rank's own tokens, with `Mixer.on_own_tokens`."""

    @property
    def sees_sequence(self) -> bool:
        """Whether the mixer reads the whole sequence, with `Mixer.forward`; a mixer may do both."""
        return True

    @property
    def lends(self) -> str | None:
        """Name under which the mixer leaves something in `context.lent` for mixers of later blocks, or None."""
        return None

    @property
    def borrows(self) -> str | None:
        """What the mixer takes from `context.lent`: what the last block before lent under that name."""
        return None

    def check_lender(self, lender: MixerConfig) -> None:
        """Raises ConfigError where what `lender` lends does not suit this mixer."""

    @classmethod
    def sizes_for(cls, hidden_size: int) -> dict[str, int]:
        """Usual sizes at this width, for options that a configuration leaves open (null or `???`): with them a mixer
        can take any other's place in any model by its name alone."""
        return {}

    def input_width(self, hidden_size: int) -> int:
        """Width of what the mixer reads: hidden_size, but for mixers that have an option for another."""
        return hidden_size

    def with_input_width(self, width: int) -> Self:
        """This config in a block that reads this width, where that is an option and left open; otherwise itself."""
        return self

    def weights(self, hidden_size: int) -> dict[str, Weight]:
        """The mixer's weights by attribute name."""
        raise UnsupportedError(f"{self.kind} does not declare its weights; define them in the mixer's Config")

    def parameters(self, hidden_size: int, at: Coordinates = WHOLE) -> int:
        """Number of trained weights that the rank holds."""
        trained = (weight for weight in self.weights(hidden_size).values() if weight.trained)
        return sum(prod(weight.local_shape(at)) for weight in trained)

    def active_parameters(self, hidden_size: int) -> int:
        """Number of the weights that one token uses."""
        return self.parameters(hidden_size)

    def flops(self, hidden_size: int, sequence_length: int, convention: FlopConvention = "exact") -> float:
        """Forward FLOPs per token, a multiply-add counted as two; training takes three times as many."""
        return 2.0 * sum(w.numel for w in self.weights(hidden_size).values() if len(w.shape) == 2)

    def activation_bytes(
        self, hidden_size: int, sequence_length: int, microbatch: int, element: int = 4, at: Coordinates = WHOLE
    ) -> float:
        """Bytes that a rank keeps for the backward pass of `microbatch` sequences, beyond the mixer's
        own input, with elements of `element` bytes; one document a sequence, on a CPU."""
        raise UnsupportedError(f"{self.kind} does not state its activation_bytes; define them in the mixer's Config")

    def gathered_bytes(self, tokens: int, element: int = 4, at: Coordinates = WHOLE) -> float:
        """Bytes that a rank keeps of so many tokens of other context-parallel ranks, whose keys and values it gathers;
        zero for mixers that ask for none, or for a few, or for states."""
        return 0.0

    def state_bytes(self, hidden_size: int, sequence_length: int, element: int = 2) -> int:
        """Bytes of decoding state for one sequence after `sequence_length` tokens."""
        raise UnsupportedError(f"{self.kind} does not state its state_bytes; define them in the mixer's Config")

    def check_device(self, cuda: bool) -> None:
        """Raises ConfigError where an option asks for what this machine lacks: a GPU, or a package for one."""

    def check_split(self, hidden_size: int, at: Coordinates) -> None:
        """Raises LayoutError where grids of these sizes cannot divide this mixer's weights."""
        for weight in self.weights(hidden_size).values():
            weight.check(self.kind, at)

    def check_exchange(self, hidden_size: int, tensor: int, context: int) -> None:
        """Raises LayoutError where `context` ranks cannot share the heads of each of `tensor` ranks."""
        for axis in (weight.axis for weight in self.weights(hidden_size).values() if self.exchanges_heads):
            if axis is not None:
                axis.check_exchange(self.kind, tensor, context)

    def with_law(self, law: MupLaw, hidden_size: int) -> Self:
        """This config with the multipliers that a muP law gives for its widths; itself where the law says nothing."""
        return self

    def with_meta_tokens(self, meta_tokens: int) -> Self:
        """This config in a model with learned vectors in front of every sequence, which all tokens must see; itself
        where every token sees all before it anyway."""
        return self


def configured(value: float | None, otherwise: float) -> float:
    """The configured value, or `otherwise` where the configuration leaves it open (null)."""
    return otherwise if value is None else value


def at_least_one(config: MixerConfig, *fields: str) -> None:
    """Raises ConfigError for a size below one; options that are null unless set may stay so."""
    for field in fields:
        value, open_ = getattr(config, field), getattr(type(config), field, 0) is None
        if value is not None and value < 1:
            raise ConfigError(f"{field}={value} must be at least 1{', or null' if open_ else ''}")
