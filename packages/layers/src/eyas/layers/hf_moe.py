"""What the families with experts share: rows of their tables."""

from __future__ import annotations

from eyas.core.errors import ConfigError
from eyas.layers.hf import LAYER_TYPES, Part, TheirConfig, option
from eyas.layers.hf_tables import activation, divisor, needed, without_layers


def made_to_sum_to_one(score: str) -> bool:
    """Whether the shares of the chosen are. Raises ConfigError for what is no softmax."""
    if score == "sigmoid":
        raise ConfigError("moe.score=sigmoid cannot be expressed where experts share a softmax")
    return score == "softmax_of_chosen"


SEPARATE = {"gate": "gate_proj", "up": "up_proj", "down": "down_proj"}
"""Usual names of an expert's projections."""
BALANCING = frozenset({"output_router_logits", "router_aux_loss_coef"})
"""Options of their auxiliary loss, which is only added in training and only on request."""
EXPERTS = (
    option("num_experts_per_tok", "moe.top_k"),
    option("moe_intermediate_size", "moe.intermediate_size"),
    option("intermediate_size", "mlp.intermediate_size"),
    activation("hidden_act", "mlp.activation", "moe.activation", default="silu"),
)
"""Experts beside feed-forward layers of another size."""
SOFTMAX = option(
    "norm_topk_prob",
    "moe.score",
    default=False,
    to_ours=lambda normed: "softmax_of_chosen" if normed else "softmax",
    to_theirs=made_to_sum_to_one,
)
"""Whether the chosen experts' shares of the softmax are made to sum to one."""
PLACES = ("mlp_only_layers", "decoder_sparse_step")


def moe_parts(
    prefix: str, *, router: str = "gate", shared: str | None = None, experts: dict[str, str] = SEPARATE
) -> tuple[Part, ...]:
    """The router, the experts with a tensor each for every projection, and the shared expert under its own name."""
    routed = [Part(f"{prefix}.experts.{{}}.{theirs}.weight", (name,)) for name, theirs in experts.items()]
    beside = {} if shared is None else SEPARATE
    common = [Part(f"{prefix}.{shared}.{theirs}.weight", (f"shared_{name}",)) for name, theirs in beside.items()]
    return Part(f"{prefix}.{router}.weight", ("router",)), *routed, *common


def with_places(config: TheirConfig) -> TheirConfig:
    """Which layers have experts: every `decoder_sparse_step`-th but those of `mlp_only_layers`."""
    dense, step = config.get("mlp_only_layers") or [], divisor(config, "decoder_sparse_step", 1)
    layers = range(1, needed(config, "num_hidden_layers") + 1)
    types = ["mlp" if layer - 1 in dense or layer % step else "moe" for layer in layers]
    return {key: value for key, value in config.items() if key not in PLACES} | {LAYER_TYPES: types}


def without_places(config: TheirConfig) -> TheirConfig:
    """The inverse of `with_places`."""
    types = config[LAYER_TYPES]
    dense = [index for index, name in enumerate(types) if name == "mlp"]
    return without_layers(config) | {"mlp_only_layers": dense, "decoder_sparse_step": 1}
