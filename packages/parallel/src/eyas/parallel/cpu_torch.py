"""A view of torch in which "cuda" means the CPU. Megatron-Core's modules see it on a machine without a GPU."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType
from typing import Any

import torch

CPU = torch.device("cpu")
FACTORIES = ("empty", "empty_like", "full", "full_like", "ones", "ones_like", "tensor", "zeros", "zeros_like")


class CpuTorch(ModuleType):
    """torch, except that tensor factories take a CUDA device for the CPU and `torch.cuda` answers for the CPU."""

    def __init__(self) -> None:
        super().__init__("torch", torch.__doc__)
        for name in FACTORIES:
            setattr(self, name, on_cpu(getattr(torch, name)))
        self.cuda = CpuCuda()

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


class CpuCuda(ModuleType):
    """torch.cuda, with the CPU as its current device: nothing to wait for, no streams, the CPU's random state."""

    def __init__(self) -> None:
        super().__init__("torch.cuda", torch.cuda.__doc__)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cuda, name)

    def current_device(self) -> torch.device:
        return CPU

    def synchronize(self, device: object = None) -> None:
        return None

    def Stream(self) -> CpuStream:
        return CpuStream()

    def current_stream(self) -> CpuStream:
        return CpuStream()

    def stream(self, stream: object) -> AbstractContextManager[None]:
        return nullcontext()

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def get_rng_state(self, device: object = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: object = None) -> None:
        torch.set_rng_state(state)


class CpuStream:
    """A CPU works in one order: every stream is the same, and all before is done."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CpuStream)

    def __hash__(self) -> int:
        return 0

    def record_event(self) -> CpuStream:
        return self

    def synchronize(self) -> None:
        return None


def on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The factory, with a CUDA device read as the CPU."""

    @functools.wraps(factory)
    def make(*args: Any, **options: Any) -> torch.Tensor:
        if str(options.get("device", "")).startswith("cuda"):
            options["device"] = CPU
        return factory(*args, **options)

    return make
