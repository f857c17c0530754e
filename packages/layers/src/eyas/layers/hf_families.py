"""The families of Hugging Face's models that Eyas reads and writes."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import Any

from eyas.core.errors import ConfigError
from eyas.core.model import ModelSpec
from eyas.core.nearest import unknown_name
from eyas.layers.hf import Family
from eyas.layers.hf_bamba import BAMBA
from eyas.layers.hf_deepseek_v3 import DEEPSEEK_V3
from eyas.layers.hf_falcon_h1 import FALCON_H1
from eyas.layers.hf_granite_hybrid import GRANITE_HYBRID
from eyas.layers.hf_jamba import JAMBA
from eyas.layers.hf_llama import LLAMA
from eyas.layers.hf_mamba2 import MAMBA2
from eyas.layers.hf_mixtral import MIXTRAL
from eyas.layers.hf_nemotron_h import NEMOTRON_H
from eyas.layers.hf_options import hf_config, types_of_depths, types_of_layers
from eyas.layers.hf_qwen2_moe import QWEN2_MOE
from eyas.layers.hf_qwen3_moe import QWEN3_MOE
from eyas.layers.hf_zamba2 import ZAMBA2

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        FALCON_H1, LLAMA, MAMBA2, NEMOTRON_H, BAMBA, GRANITE_HYBRID, MIXTRAL, QWEN3_MOE, QWEN2_MOE, DEEPSEEK_V3, JAMBA,
        ZAMBA2,
    )
}  # fmt: skip
"""By `model_type`."""


def family_of_config(config: Mapping[str, Any]) -> Family:
    """The family of a config.json. Raises ConfigError for one that is not known."""
    name = config.get("model_type")
    if name not in FAMILIES:
        raise ConfigError(f"config.json: {unknown_name('model_type', str(name), FAMILIES)}")
    return FAMILIES[name]


def family_of_model(spec: ModelSpec) -> tuple[Family, dict[str, Any]]:
    """A family that can express the model, and its config.json: the one that the model is named after, if it can, else
    the first. Raises ConfigError saying what stands in the way, first in the family whose name is nearest."""
    reasons: dict[str, list[str]] = {}
    fitting: list[str] = []
    for family in sorted(FAMILIES.values(), key=lambda family: family.model_type != spec.name):
        try:
            types_of_layers(family, spec)
            types_of_depths(family, spec)
        except ConfigError as error:
            reasons.setdefault(str(error).replace(family.model_type, "it"), []).append(f"{family.model_type}: {error}")
            continue
        try:
            return family, hf_config(family, spec)
        except ConfigError as error:
            fitting.append(f"{family.model_type}: {error}")

    def distance(reason: str) -> float:
        return -SequenceMatcher(None, reason.partition(":")[0], spec.name).ratio()

    nearest = sorted((sorted(alike, key=distance) for alike in reasons.values()), key=lambda alike: distance(alike[0]))
    told = [first + (f" (nor has any of {len(more)} others)" if more else "") for first, *more in nearest]
    why = "; ".join(sorted(fitting, key=distance) or told)
    raise ConfigError(f"no family of Hugging Face's can hold this model; {why}")
