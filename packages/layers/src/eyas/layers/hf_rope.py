"""Scaled rotary positions in a config.json: Llama 3.1's rule, and YaRN."""

from eyas.core.errors import ConfigError
from eyas.core.schema import dump, load
from eyas.layers.hf import Option, TheirConfig, option
from eyas.layers.hf_tables import DEFAULT_ROPE
from eyas.layers.rope_scaling import FAST, RopeScaling

PREFIX, SCALING = "rope_parameters.", "rope_parameters.scaling"
LENGTH = "max_position_embeddings"
COMMON = {"factor": "factor", f"original_{LENGTH}": "original_length"}
RULES = {
    "llama3": COMMON | {"low_freq_factor": "slow_turns", "high_freq_factor": "fast_turns"},
    "yarn": COMMON | {"beta_slow": "slow_turns", "beta_fast": "fast_turns"}
    | {name: name for name in ("attention_factor", "mscale", "mscale_all_dim", "truncate")},
}  # fmt: skip
"""Their names of the options of each rule, and ours."""


def rope_scaling(kind: str) -> Option:
    """The row for the scaling in layers of this kind, for families whose `complete` and `finish` call what follows."""
    return option(SCALING, f"{kind}.rope_scaling", default=None)


def with_scaling(config: TheirConfig) -> TheirConfig:
    """The options of scaled rotary positions as one, in our words. Raises ConfigError for rules that we have not."""
    rest = dict(config)
    rule = rest.pop(f"{PREFIX}rope_type", "default")
    if rule == "default":
        return rest
    if rule not in RULES:
        known = ", ".join(("default", *RULES))
        raise ConfigError(f"config.json: {PREFIX}rope_type={rule!r} is not supported; Eyas has {known}")
    given = {ours: rest.pop(f"{PREFIX}{theirs}", None) for theirs, ours in RULES[rule].items()}
    if given["original_length"] is None:
        given["original_length"] = rest.get(LENGTH)
    for theirs, ours in COMMON.items():
        if given[ours] is None:
            raise ConfigError(f"config.json: {PREFIX}{theirs} is missing, which {rule} needs")
    said = {name: value for name, value in given.items() if value is not None}
    return rest | {SCALING: dump(load(RopeScaling, {"rule": rule, "fast_turns": FAST[rule], **said}, "config.json"))}


def without_scaling(config: TheirConfig) -> TheirConfig:
    """The inverse, with the length of texts that follows."""
    rest = dict(config)
    scaling = rest.pop(SCALING, None)
    if scaling is None:
        return rest | DEFAULT_ROPE
    rule = scaling["rule"]
    resolved = scaling | {"fast_turns": scaling["fast_turns"] or FAST[rule]}
    said = {theirs: resolved[ours] for theirs, ours in RULES[rule].items() if resolved[ours] is not None}
    rest |= {f"{PREFIX}{name}": value for name, value in {"rope_type": rule, **said}.items()}
    return rest | {LENGTH: int(scaling["factor"] * scaling["original_length"])}
