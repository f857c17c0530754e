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
    """One warning: where it comes from, how it begins, and why it says nothing to a user."""

    source: str
    """Regular expression for the module that warns."""
    text: str
    """Regular expression that the message begins with."""
    reason: str


WARNINGS = (
    Noise(r"lightning\.pytorch", "`isinstance\\(treespec, LeafSpec\\)` is deprecated", "Lightning's to rename"),
    Noise(r"lightning\.pytorch", "It is recommended to use `self.log", "every rank logs the same value already"),
    Noise(r"megatron\.core", "Transformer Engine and Apex are not installed", "both are optional; eyas works without"),
    Noise(r"megatron\.core", "Apex is not installed", "optional, and its norm is not used"),
    Noise(r"megatron\.core\.inference", "The following imports from", "it concerns modules that eyas does not use"),
    Noise(r"megatron\.core\.dist_checkpointing", "`load_state_dict` is deprecated", "Megatron's to rename"),
    Noise(r"torch\.jit", "`torch.jit.script_method` is deprecated", "Megatron's to rename"),
    Noise(r"torch\._inductor", "`torch._prims_common.check` is deprecated", "torch's to rename"),
    Noise(r"megatron\.core", "full scope is deprecated", "it is the default of an option that eyas does not set"),
    Noise(
        r"megatron\.core\.optimizer", "The .grad attribute of a Tensor that is not a leaf", "shards are such tensors"
    ),
    Noise(r"megatron\.core\.optimizer", "WARNING: there is no optimizer on RANK", "frozen parts may leave one nothing"),
    Noise(
        r"torch\.distributed", ".*(reduce_scatter_tensor|all_gather_into_tensor).*deprecated", "Megatron's to rename"
    ),
)

LAUNCHER_LOGGERS = ("torch.distributed.elastic", "torch.distributed.launcher")
"""What torch's launcher says about ranks that end: `launch` says it in one line, and better."""


@functools.cache
def install() -> None:
    """Silences the noise in this process, from now on."""
    for noise in WARNINGS:
        warnings.filterwarnings("ignore", message=noise.text, module=noise.source)


@contextmanager
def importing() -> Iterator[None]:
    """Silences the warnings while upstream modules are imported, whatever the process thinks of warnings later."""
    with warnings.catch_warnings():
        for noise in WARNINGS:
            warnings.filterwarnings("ignore", message=noise.text, module=noise.source)
        yield


@contextmanager
def launching() -> Iterator[None]:
    """Keeps the log of torch's elastic launcher to itself."""
    loggers = [logging.getLogger(name) for name in LAUNCHER_LOGGERS]
    silence = logging.NullHandler()
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(silence)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, propagate in zip(loggers, before, strict=True):
            logger.removeHandler(silence)
            logger.propagate = propagate
