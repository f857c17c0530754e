"""Warnings and log lines of other libraries that no user can act on. Each is silenced alone, with its reason."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Noise:
    """One warning or log line: where it comes from, how it begins, and why it says nothing to a user."""

    source: str
    """Regular expression for the module that warns, or the name of the logger."""
    text: str
    """Regular expression that the message begins with."""
    reason: str


WARNINGS = (
    Noise(r"megatron\.core", "Transformer Engine and Apex are not installed", "both are optional; eyas works without"),
    Noise(r"megatron\.core", "Apex is not installed", "optional, and its norm is not used"),
    Noise(r"megatron\.core", "full scope is deprecated", "it is the default of an option that eyas does not set"),
    Noise(r"megatron\.core\.optimizer", "The .grad attribute of a Tensor that is not a leaf", "shards are such tensors"),
    Noise(r"torch\.distributed", ".*(reduce_scatter_tensor|all_gather_into_tensor).*deprecated", "Megatron's to rename"),
)

LOG_LINES: tuple[Noise, ...] = ()


@functools.cache
def install() -> None:
    """Silences the noise in this process, from now on."""
    for noise in WARNINGS:
        warnings.filterwarnings("ignore", message=noise.text, module=noise.source)
    for noise in LOG_LINES:
        logging.getLogger(noise.source).addFilter(functools.partial(_passes, noise))


@contextmanager
def importing() -> Iterator[None]:
    """Silences the warnings while upstream modules are imported, whatever the process thinks of warnings later."""
    with warnings.catch_warnings():
        for noise in WARNINGS:
            warnings.filterwarnings("ignore", message=noise.text, module=noise.source)
        yield


def _passes(noise: Noise, record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(noise.text)
