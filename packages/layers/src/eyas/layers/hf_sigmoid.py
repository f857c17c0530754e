"""Experts that are chosen by a biased sigmoid, within groups: what DeepSeek-V3 and Nemotron-H share."""

from __future__ import annotations

from eyas.core.errors import ConfigError
from eyas.layers.hf import Part, TheirConfig, option

SELECTION_BIAS_RATE = "selection_bias_rate"
SIGMOID = (
    option(SELECTION_BIAS_RATE, "moe.selection_bias_rate", default=1e-3),
    option("n_routed_experts", "moe.num_experts"),
    option("num_experts_per_tok", "moe.top_k"),
    option("n_group", "moe.num_groups"),
    option("topk_group", "moe.top_groups"),
    option("routed_scaling_factor", "moe.scaling_factor"),
    option("moe_intermediate_size", "moe.intermediate_size"),
    option("moe_shared_expert_intermediate_size", "moe.shared_size"),
)
"""The first is none of theirs: a model that is trained on keeps balancing by DeepSeek-V3's step."""


def selection_bias(prefix: str) -> Part:
    """The bias, which is not trained."""
    return Part(f"{prefix}.gate.e_score_correction_bias", ("selection_bias",))


def with_routing(config: TheirConfig) -> TheirConfig:
    """One group is no groups. Raises ConfigError where the choice or the weights would not be ours."""
    groups, chosen_groups, chosen = (config.get(key) for key in ("n_group", "topk_group", "num_experts_per_tok"))
    if groups == 1:
        config = config | {"n_group": None, "topk_group": None}
    elif groups is not None and chosen_groups is not None and chosen != 2 * chosen_groups:
        raise ConfigError(
            f"config.json: num_experts_per_tok={chosen} is not supported with topk_group={chosen_groups}; groups are "
            "ranked by their two best experts there, and by as many as a token uses of each here"
        )
    if config.get("norm_topk_prob", True) != (chosen != 1):
        raise ConfigError(
            f"config.json: norm_topk_prob={config.get('norm_topk_prob', True)} is not supported with "
            f"num_experts_per_tok={chosen}; several sigmoids are made to sum to one, a single one is not"
        )
    return {key: value for key, value in config.items() if key != "norm_topk_prob"}


def without_routing(config: TheirConfig) -> TheirConfig:
    """The inverse, for a model with experts. Raises ConfigError as `with_routing` does, and without bias or shared
    expert, which theirs always have."""
    for key, name in (
        (SELECTION_BIAS_RATE, "selection_bias_rate"),
        ("moe_shared_expert_intermediate_size", "shared_size"),
    ):
        if config[key] is None:
            raise ConfigError(f"moe.{name}=null cannot be expressed by a model whose experts are chosen by a sigmoid")
    groups = {key: config[key] or 1 for key in ("n_group", "topk_group")}
    config = config | groups | {"norm_topk_prob": config["num_experts_per_tok"] > 1}
    with_routing(config)
    return {key: value for key, value in config.items() if key != SELECTION_BIAS_RATE}
