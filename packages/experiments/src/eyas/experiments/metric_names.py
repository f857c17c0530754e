"""What the name of a metric tells: which way it is better, at which length it was measured, where it stands in a table.

The convention is described in docs/report.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

LENGTH = "@"
"""Stands between a metric and the sequence length that it was measured at: accuracy@256."""
FIRST = ("validation_loss",)
COSTS = (
    "train_loss", "tokens_per_second", "mfu", "parameters", "memory_gib", "active_parameters",
    "training_flops_per_token", "training_flops_per_token_megatron", "seconds",
)  # fmt: skip
"""In this order, behind what was learnt; all others follow by name."""
OF_THE_RUN = frozenset(COSTS) - {"train_loss"} | {"tail_parameters", "steps", "samples", "tokens"}
"""What means the same whatever was learnt, so that a table may average it over tasks."""
HIGHER = frozenset({"accuracy", "acc", "match", "f1", "score", "tflops", "mfu"})
LOWER = frozenset({"loss", "brier", "perplexity", "ppl", "error", "memory", "seconds"})
NO_RESULT = frozenset({"stderr", "std", "uniform", "unigram"})
"""Words of what is no result to compare."""


def higher_is_better(metric: str) -> bool | None:
    """By the words of the metric's name; None for one of which neither can be said."""
    name = metric.partition(LENGTH)[0].lower()
    words = set(re.split(r"[\W_]+", name))
    own = set(re.split(r"[\W_]+", name.rpartition("/")[2]))
    if own & (HIGHER | LOWER | NO_RESULT):
        words = own  # what stands before it may be the name of a task
    if words & NO_RESULT:
        return None
    if words & LOWER:  # first, as of a Brier score
        return False
    return True if words & HIGHER or "per_second" in metric else None


def of_the_run(metric: str) -> bool:
    """Whether the metric is of the model and its training, whatever that was of."""
    return metric in OF_THE_RUN


def at_length(metric: str) -> tuple[str, int] | None:
    """`accuracy@256` is accuracy at length 256; None for a metric of no length."""
    name, _, length = metric.rpartition(LENGTH)
    return (name, int(length)) if name and length.isdecimal() else None


def in_order(metrics: Iterable[str]) -> tuple[str, ...]:
    """What was learnt, what it cost, the rest; metrics at a length last, the shortest first."""
    return tuple(sorted(metrics, key=_place))


def _place(metric: str) -> tuple[int, int, str, int]:
    if found := at_length(metric):
        return 4, 0, *found
    if metric in FIRST:
        return 0, FIRST.index(metric), metric, 0
    if metric in COSTS:
        return 2, COSTS.index(metric), metric, 0
    words = set(re.split(r"[\W_]+", metric.lower()))
    learnt = bool(words & (HIGHER | {"loss", "perplexity", "ppl"})) and not words & (NO_RESULT | {"tflops", "mfu"})
    return 1 if learnt else 3, 0, metric, 0
