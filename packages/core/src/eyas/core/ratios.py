"""Patterns from ratios: how the Mamba-2-Hybrid study spreads attention and MLP layers over a stack."""

from eyas.core.errors import ConfigError


def pattern_from_ratios(length: int, attention: float, mlp: float) -> str:
    """The one-letter pattern of `length` layers, with these shares of attention (*) and MLP (-), the rest Mamba-2 (M).

    Waleffe et al. 2024 (arXiv 2406.07887), Algorithm 1: attention is spaced evenly with Mamba-2 on both sides, then
    MLPs are spaced evenly over what is left, towards the end.
    """
    if length < 1:
        raise ConfigError(f"a pattern of length={length}; a model has at least one layer")
    for name, ratio in (("attention", attention), ("mlp", mlp), ("attention + mlp", attention + mlp)):
        if not 0 <= ratio <= 1:
            raise ConfigError(f"ratio {name}={ratio:g} is not between 0 and 1; give shares of the {length} layers")
    attention_layers = round(length * attention)
    mlp_layers = round(length * mlp)
    mamba_layers = length - attention_layers - mlp_layers
    if mamba_layers < 0:
        raise ConfigError(
            f"attention={attention:g} and mlp={mlp:g} round to {attention_layers} + {mlp_layers} of {length} layers; "
            "lower one of them"
        )
    letters = ["M"] * length
    _spread(letters, "*", (length - attention_layers) / (attention_layers + 1))
    if mlp_layers:
        _spread(letters, "-", mamba_layers / mlp_layers)
    return "".join(letters)


def _spread(letters: list[str], letter: str, between: float) -> None:
    """Puts `letter` in place of an M after every `between` of those that stay, on average."""
    due = between
    for index, present in enumerate(letters):
        if present != "M":
            continue
        if due < 0.5:
            letters[index] = letter
            due += between
        else:
            due -= 1
