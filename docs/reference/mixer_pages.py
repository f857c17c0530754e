"""A page for each registered mixer, from its class alone."""

from __future__ import annotations

import inspect
import textwrap
from math import prod
from typing import Any

from field_docs import table

from eyas.core.errors import UnsupportedError
from eyas.core.mixer import Mixer
from eyas.core.mixer_config import MixerConfig
from eyas.core.registry import Registered, mixers
from eyas.core.weights import Weight
from eyas.experiments.conf_tree import conf_folder

WIDTH, LENGTH = 1024, 4096
"""The model's width and the tokens of a sequence that examples are counted for."""
CLOSED_FORMS = {
    "active_parameters": "Weights that one token uses",
    "flops": "Forward FLOPs per token",
    "activation_bytes": "Bytes kept for the backward pass",
    "gathered_bytes": "Bytes kept of other context-parallel ranks",
    "state_bytes": "Bytes of decoding state",
}


def mixer_pages() -> dict[str, str]:
    """Markdown by file name: an index and a page for each mixer."""
    pages = {f"mixers/{kind}.md": mixer_page(entry) for kind, entry in mixers().items()}
    rows = [f"| [{kind}]({kind}.md) | {_symbol(entry)} | {entry.summary} |" for kind, entry in mixers().items()]
    index = ["# Mixers\n", "What patterns can name; [a mixer of your own](../../mixers.md) is one file.\n"]
    return pages | {"mixers/index.md": "\n".join([*index, "| mixer | symbol | |", "|---|---|---|", *rows, ""])}


def mixer_page(entry: Registered) -> str:
    """What the mixer is, its options, what it supports, its weights and its costs."""
    config = entry.mixer.Config
    sizes = frozenset(config.sizes_for(WIDTH))
    module = inspect.getmodule(entry.mixer)
    return "\n".join(
        [
            f"# {entry.kind}\n",
            f"{inspect.cleandoc(entry.mixer.__doc__ or '')}\n",
            f"{inspect.cleandoc((module and module.__doc__) or '')}\n",
            f"Brought by `{entry.package}`, module `{entry.mixer.__module__}`. Symbol in pattern shorthand: "
            f"{_symbol(entry) or 'none'}.\n",
            "```bash\n" + f"eyas train layer@model.layers.ssm={entry.kind} --dry-run\n" + "```\n",
            f"## Options\n\n{table(config, open_sizes=sizes)}",
            f"## What it supports\n\n{_supports(entry.mixer)}",
            _example(config),
            f"## Closed forms\n\n{_closed_forms(config)}",
            _used(entry.kind),
        ]
    )


def _symbol(entry: Registered) -> str:
    return f"`{entry.symbol}`" if entry.symbol else ""


def _supports(mixer: type[Mixer]) -> str:
    config = mixer.Config
    said = {
        "packed documents (`data.documents=isolated`)": config.carries_documents,
        "sequences shared by ranks (`layout.context`)": config.carries_context,
        "whole sequences of some heads (`layout.context_exchange=alltoall`)": config.exchanges_heads,
        "decoding token by token": mixer.step is not Mixer.step,
        "prompts read in one pass": mixer.prefill is not Mixer.prefill,
        "a rank's own tokens, without the block's collectives": config.owns_tokens,
        "multipliers of a muP law": config.with_law is not MixerConfig.with_law,
    }
    rows = [f"| {what} | {'yes' if holds else 'no'} |" for what, holds in said.items()]
    return "\n".join(["| | |", "|---|---|", f"| role in `layout.recompute` | `{config.role}` |", *rows, ""])


def _example(config_class: type[MixerConfig]) -> str:
    """Weights and costs at a usual size; nothing for a mixer that does not state usual sizes."""
    sizes = config_class.sizes_for(WIDTH)
    try:
        config = config_class(**sizes)
    except TypeError:
        return ""
    weights = config.weights(WIDTH)
    given = ", ".join(f"`{name}={value}`" for name, value in sizes.items())
    parts = [f"## Weights and costs at a width of {WIDTH:,}\n", f"With {given or 'its defaults'}.\n"]
    parts += ["| weight | shape | tensor-parallel ranks |", "|---|---|---|"]
    parts += [
        f"| `{name}` | {' x '.join(map(str, weight.shape))} | {_split(weight)} |" for name, weight in weights.items()
    ]
    costs = {
        "parameters": config.parameters(WIDTH),
        "parameters that a token uses": config.active_parameters(WIDTH),
        f"forward FLOPs per token at {LENGTH:,} tokens": config.flops(WIDTH, LENGTH),
        f"bytes kept for the backward pass of a sequence of {LENGTH:,} tokens, bfloat16": _stated(
            config.activation_bytes, WIDTH, LENGTH, 1, 2
        ),
        f"bytes of decoding state after {LENGTH:,} tokens, bfloat16": _stated(config.state_bytes, WIDTH, LENGTH),
    }
    parts += ["", "| cost | |", "|---|---:|"]
    parts += [f"| {what} | {value if isinstance(value, str) else f'{value:,.0f}'} |" for what, value in costs.items()]
    return "\n".join([*parts, ""])


def _stated(form: Any, *sizes: int) -> float | str:
    try:
        return float(form(*sizes))
    except UnsupportedError:
        return "not stated"


def _split(weight: Weight) -> str:
    """How ranks hold it, in words."""
    if weight.axis is None:
        return "whole on each" + ("" if weight.trained else ", not trained")
    axis, each = weight.axis, prod(weight.shape)
    shared = "; held by several ranks where there are fewer units than ranks" if axis.shared else ""
    expert = "experts divided; " if weight.expert else ""
    return f"{expert}split by `{axis.name}` ({axis.units} units of {each // axis.units:,} entries){shared}"


def _closed_forms(config: type[MixerConfig]) -> str:
    """The functions themselves, each tested against the module."""
    parts = [
        "Held to the module by tests: counted entries, counted operations, the bytes that autograd keeps, the bytes of "
        "the decoding state.\n"
    ]
    for name, title in CLOSED_FORMS.items():
        form = getattr(config, name)
        if form is not getattr(MixerConfig, name):
            source = textwrap.dedent(inspect.getsource(form)).strip()
            parts.append(f'??? note "{title}: `{name}`"\n\n' + textwrap.indent(f"```python\n{source}\n```\n", "    "))
    if len(parts) == 1:
        parts.append("It has no more than the contract's defaults: two operations for each entry of its matrices.\n")
    return "\n".join(parts)


def _used(kind: str) -> str:
    """The models of conf/ that name it."""
    files = sorted((conf_folder() / "layer").glob("*/*.yaml"))
    models = sorted({path.parent.name for path in files if f"- /layer/{kind}@_here_\n" in path.read_text()})
    return f"## Models that have it\n\n{', '.join(f'`model={model}`' for model in models)}\n" if models else ""
