"""The specification of a model: what YAML says, checked and resolved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from eyas.core.arrangement import arrange, fitted, plain_block
from eyas.core.block_config import BlockConfig, BlockSpec
from eyas.core.errors import ConfigError
from eyas.core.mixer_config import MixerConfig, configured
from eyas.core.mup import Widened, mup_law
from eyas.core.pattern import Pattern, parse_pattern
from eyas.core.registry import mixer
from eyas.core.schema import REQUIRED, load


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The `model` group of a configuration: sizes, named layers, and the pattern that arranges them."""

    name: str = "model"
    """What tables call the model."""
    hidden_size: int
    """Width of the residual stream."""
    vocab_size: int
    """Rows of the embedding; any number, padded where the tensor-parallel size asks for it."""
    layers: dict[str, Any]
    """Layer name to its options; `kind` names the registered mixer."""
    pattern: str | list[Any]
    """Blocks in order: names side by side joined by `+`; or Megatron-LM's one-letter form."""
    blocks: dict[str, BlockConfig] = field(default_factory=dict)
    """Blocks with options of their own, by the name that stands for them in the pattern."""
    repeat: int = 1
    """How often the pattern is repeated."""
    norm_epsilon: float = 1e-5
    tie_embeddings: bool = False
    """Whether the output head uses the embedding's weight."""
    meta_tokens: int = 0
    """Learned vectors in front of every sequence, seen by all its tokens; they have no loss (Hymba)."""
    dropout: float = 0.0
    """Share of what each block writes that training sets to zero at random."""
    init_std: float = 0.02
    mtp_loss_weight: float = 0.1
    """Weight of the multi-token-prediction loss, the mean over the depths that follow `/` in the pattern."""
    mtp_repeated: bool = False
    """Whether all those depths are one, applied again and again; they must be alike."""
    mup: str | None = None
    """Law that gives every multiplier that is not set: falcon_h1, or null for none."""
    mup_base: int | None = None
    """hidden_size at which init_std and the learning rate were chosen, for them to serve this one: see `Widened`. null
    takes both as they are."""
    embedding_multiplier: float | None = None
    """Scales the embeddings; null means 1, or what the muP law gives."""
    lm_head_multiplier: float | None = None
    """Scales the logits."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "vocab_size", "repeat"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.mup_base is not None and self.mup_base < 1:
            raise ConfigError(f"mup_base={self.mup_base} must be at least 1, or null")
        for name in ("meta_tokens", "mtp_loss_weight"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}={getattr(self, name)} must not be negative")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout={self.dropout} must be at least 0 and below 1")
        if self.mup is not None:
            mup_law(self.mup)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A model whose every option is decided: what modules are built from and costs are counted on."""

    name: str
    hidden_size: int
    vocab_size: int
    layers: dict[str, MixerConfig]
    pattern: Pattern
    blocks: tuple[BlockSpec, ...]
    """The pattern's blocks with their options."""
    depths: tuple[tuple[BlockSpec, ...], ...]
    """The blocks of each depth of the multi-token-prediction tail, which have no options."""
    norm_epsilon: float
    tie_embeddings: bool
    meta_tokens: int
    dropout: float
    init_std: float
    hidden_std: float
    """Of the matrices inside blocks, where init_std is that of the others."""
    hidden_rate: float
    """Factor of their learning rate."""
    mtp_loss_weight: float
    mtp_repeated: bool
    embedding_multiplier: float
    lm_head_multiplier: float

    @property
    def tail(self) -> tuple[tuple[BlockSpec, ...], ...]:
        """The depths that have weights of their own."""
        return self.depths[:1] if self.mtp_repeated else self.depths

    @property
    def all_blocks(self) -> tuple[BlockSpec, ...]:
        """The blocks, and behind them those of the depths that have weights of their own."""
        return (*self.blocks, *(block for depth in self.tail for block in depth))

    @property
    def used_layers(self) -> dict[str, MixerConfig]:
        """The layers that stand in the pattern, by name."""
        return {name: self.layers[name] for block in self.all_blocks for name in block.layers}

    @property
    def embeds_twice(self) -> bool:
        """Whether the last pipeline stage needs the embedding too: as its head, or to predict further tokens."""
        return self.tie_embeddings or bool(self.depths)


def load_model(data: Mapping[str, Any], path: str = "model") -> ModelSpec:
    """Reads the `model` group from plain data. Raises ConfigError naming the field under `path`."""
    return resolve(load(ModelConfig, data, path), path)


def resolve(config: ModelConfig, path: str = "model") -> ModelSpec:
    """Loads the layers' options, parses the pattern and derives the multipliers."""
    layers = {
        name: load_layer(options, f"{path}.layers.{name}", config.hidden_size)
        for name, options in config.layers.items()
    }
    symbols = {name: mixer(layer.kind).symbol for name, layer in layers.items()}
    named = dict.fromkeys(config.blocks)
    pattern = parse_pattern(config.pattern, {**symbols, **named}, config.repeat)
    check_tail(pattern, config, path)
    embedding, head = 1.0, None
    if config.mup is not None:
        law = mup_law(config.mup)
        check_law(config, layers, pattern, path)
        layers = {name: layer.with_law(law, config.hidden_size) for name, layer in layers.items()}
        embedding, head = law.embedding(), law.lm_head(config.hidden_size)
    widened = Widened(config.hidden_size / (config.mup_base or config.hidden_size), config.mup is not None)
    layers = {name: layer.with_meta_tokens(config.meta_tokens) for name, layer in layers.items()}
    try:
        blocks = arrange(pattern, config.blocks, layers, config.hidden_size)
        depths = tuple(tuple(map(plain_block, depth)) for depth in pattern.tail)
        layers = fitted(layers, (*blocks, *(block for depth in depths for block in depth)), config.hidden_size)
    except ConfigError as error:
        raise ConfigError(f"{path}.{error}") from error
    return ModelSpec(
        name=config.name,
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        layers=layers,
        pattern=pattern,
        blocks=blocks,
        depths=depths,
        norm_epsilon=config.norm_epsilon,
        tie_embeddings=config.tie_embeddings,
        meta_tokens=config.meta_tokens,
        dropout=config.dropout,
        init_std=config.init_std,
        hidden_std=config.init_std * widened.spread,
        hidden_rate=widened.rate,
        mtp_loss_weight=config.mtp_loss_weight,
        mtp_repeated=config.mtp_repeated,
        embedding_multiplier=configured(config.embedding_multiplier, embedding),
        lm_head_multiplier=configured(config.lm_head_multiplier, configured(head, widened.head)),
    )


def check_law(config: ModelConfig, layers: Mapping[str, MixerConfig], pattern: Pattern, path: str) -> None:
    """Raises ConfigError where a law of multipliers is to hold at another width than the base's, and something in the
    model has no multipliers: it would begin larger by a power of the ratio, and learn as fast as at the base."""
    if config.mup_base in (None, config.hidden_size):
        return
    used = {name for item in (*pattern.blocks, *chain(*pattern.tail)) for name in item}
    blocks = {name: block for name, block in config.blocks.items() if name in used}
    used |= {layer for block in blocks.values() for layer in block.layers.split("+")}
    without = [f"layers.{name}" for name, layer in layers.items() if name in used and not follows_law(layer)]
    without += [f"blocks.{name}.projection" for name, block in blocks.items() if block.projection]
    without += ["pattern's depths behind '/'"] if pattern.tail else []
    if without:
        raise ConfigError(
            f"{path}.{without[0]} has no multipliers of mup={config.mup}, so that mup_base={config.mup_base} cannot be "
            f"kept to at hidden_size={config.hidden_size}; leave out mup, whose place learning rates then take"
        )


def follows_law(layer: MixerConfig) -> bool:
    """Whether a mixer takes multipliers from a law."""
    return type(layer).with_law is not MixerConfig.with_law


def check_tail(pattern: Pattern, config: ModelConfig, path: str) -> None:
    """Raises ConfigError for a multi-token-prediction tail that cannot be."""
    if config.mtp_repeated and len(set(pattern.tail)) != 1:
        found = "depths that differ" if pattern.tail else "no depths"
        raise ConfigError(
            f"{path}.mtp_repeated=true, but the pattern {pattern} has {found} after '/'; "
            "write each depth alike, or leave it out"
        )
    if pattern.tail and config.meta_tokens:
        raise ConfigError(f"{path}.meta_tokens={config.meta_tokens} cannot stand before a pattern with '/'; drop one")


def load_layer(options: Mapping[str, Any] | None, path: str, hidden_size: int | None = None) -> MixerConfig:
    """Reads one layer's options; `kind` selects the mixer whose Config they fill. With `hidden_size` the mixer's usual
    sizes at this width fill what is left open."""
    if not isinstance(options, Mapping) or not isinstance(options.get("kind"), str):
        raise ConfigError(f"{path}.kind is missing; name a registered mixer, such as kind: attention")
    try:
        registered = mixer(options["kind"])
    except ConfigError as error:
        raise ConfigError(f"{path}.kind: {error}") from error
    Config = registered.mixer.Config
    sizes = {} if hidden_size is None else Config.sizes_for(hidden_size)
    given = {name: value for name, value in options.items() if name != "kind"}
    still_open = {name for name in sizes if given.get(name) in (None, REQUIRED)}
    return load(Config, given | {name: sizes[name] for name in still_open}, path)
