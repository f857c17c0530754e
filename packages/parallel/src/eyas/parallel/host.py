"""Megatron-Core on a machine without a GPU.

Megatron-Core takes a GPU for granted in some thirty places that have nothing to do with CUDA kernels: a scalar is made
on `device="cuda"`, a gradient must call itself a `torch.cuda.FloatTensor`. Where no GPU is present, `install` answers
for it, in the modules and functions listed here. The modules get a torch of their own and torch itself stays as it is;
but while one of the functions runs, `Tensor.type`, `cuda` and `float` are other methods for the whole process.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.distributed import distributed_c10d

from eyas.parallel import uneven
from eyas.parallel.cpu_torch import CpuTorch

CORE = "megatron.core."


@dataclass(frozen=True)
class Assumption:
    """A place in Megatron-Core 0.16.1 that takes a GPU for granted."""

    module: str
    """Module below megatron.core."""
    line: int
    text: str
    """The upstream source on that line; a test tells when it is gone, and the entry with it."""
    function: str = ""
    """Qualified name of the function around it, where only calls of that function need the host."""


SEES_CPU_TORCH = (
    Assumption("tensor_parallel.mappings", 91, "device=torch.cuda.current_device()"),
    Assumption("tensor_parallel.random", 237, "torch.cuda.manual_seed(seed)"),
    Assumption("pipeline_parallel.schedules", 596, 'torch.zeros([], dtype=torch.int, device="cuda")'),
    Assumption("pipeline_parallel.p2p_communication", 313, "device=torch.cuda.current_device()"),
    Assumption("distributed.param_and_grad_buffer", 806, "device=torch.cuda.current_device()"),
    Assumption("optimizer.optimizer", 907, "torch.tensor([1.0], dtype=torch.float, device='cuda')"),
    Assumption("optimizer.distrib_optimizer", 791, "device=torch.cuda.current_device()"),
    Assumption("optimizer.clip_grads", 103, "torch.zeros(1, dtype=torch.int, device='cuda')"),
    Assumption("utils", 1207, 'torch.tensor([float(l2_reduced)], dtype=torch.float, device="cuda")'),
    Assumption("dist_checkpointing.exchange_utils", 104, 'torch.empty_like(tensor, device="cuda")'),
    Assumption("dist_checkpointing.strategies.async_utils", 165, "device=torch.cuda.current_device()"),
    Assumption("dist_checkpointing.strategies.filesystem_async", 230, "torch.cuda.synchronize()"),
    Assumption("dist_checkpointing.strategies.fully_parallel", 272, "torch.cuda.synchronize()"),
    Assumption("dist_checkpointing.strategies.state_dict_saver", 252, "device=torch.cuda.current_device()"),
    Assumption("transformer.moe.token_dispatcher", 445, "torch.cuda.Stream()"),
)
"""Modules whose name `torch` becomes a view of torch in which "cuda" means the CPU."""

SEES_CUDA_TENSORS = (
    Assumption(
        "optimizer.clip_grads",
        167,
        "assert param.grad.type() == 'torch.cuda.FloatTensor'",
        "clip_grad_by_total_norm_fp32",
    ),
    Assumption(
        "optimizer.distrib_optimizer",
        582,
        "if param.type() in ['torch.cuda.HalfTensor', 'torch.cuda.BFloat16Tensor']",
        "DistributedOptimizer.__init__",
    ),
    Assumption(
        "optimizer.distrib_optimizer",
        2419,
        "shard_main_param.grad = shard_model_grad.float()",
        "DistributedOptimizer._copy_model_grads_to_main_grads",
    ),
    Assumption(
        "optimizer.distrib_optimizer",
        1089,
        "send_tensor = send_tensor.cuda()",
        "DistributedOptimizer.get_parameter_state_dp_zero",
    ),
    Assumption(
        "optimizer.optimizer",
        671,
        "if param.type() in ['torch.cuda.HalfTensor', 'torch.cuda.BFloat16Tensor']",
        "Float16OptimizerWithFloat16Params.__init__",
    ),
    Assumption(
        "dist_checkpointing.exchange_utils",
        336,
        "all_loaded_tensors[shard_id] = all_loaded_tensors[shard_id].cuda()",
        "exchange_loaded_tensors_gather_rounds",
    ),
    Assumption(
        "dist_checkpointing.exchange_utils",
        499,
        "local_ten = all_loaded_tensors[shard_id].cuda()",
        "exchange_loaded_tensors_broadcast",
    ),
)
"""Functions during which a CPU tensor passes for a CUDA one (`Tensor.type()`, `Tensor.cuda()`, see `cuda_spelling`)."""


@functools.cache
def install() -> bool:
    """Prepares Megatron-Core for this machine, once per process; returns whether there was anything to do. Where a GPU
    is present nothing is touched."""
    if torch.cuda.is_available():
        return False
    view = CpuTorch()
    for place in SEES_CPU_TORCH:
        vars(_module(place))["torch"] = view
    for place in SEES_CUDA_TENSORS:
        _replace(place, passing_for_cuda)
    _use_cpu_random_state()
    _load_shards_on_cpu(view)
    _split_sizes_as_numbers()
    _pad_uneven_parts()
    _share_gloo_device()
    return True


def batches_messages() -> bool:
    """Whether pipeline stages may send batched messages. Not over gloo: there batched sends in both directions are
    mixed up and the gradients are wrong without an error (pipeline_parallel/p2p_communication.py, `batch_p2p_comm`)."""
    return torch.cuda.is_available()


def passing_for_cuda(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, called while CPU tensors pass for CUDA tensors."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        with cuda_spelling():
            return function(*args, **options)

    return call


@contextmanager
def cuda_spelling() -> Iterator[None]:
    """Inside, `Tensor.type()` names the CUDA type and `Tensor.cuda()` returns the tensor itself. Float64, which
    upstream does not expect, passes for the full precision that float32 is there, and `Tensor.float()` keeps it. That
    holds for every thread of the process; none of the model's arithmetic is called inside."""
    true = {name: getattr(torch.Tensor, name) for name in ("type", "cuda", "float")}

    def spelled(tensor: Tensor, *args: Any, **options: Any) -> Any:
        answer = true["type"](tensor, *args, **options)
        if not isinstance(answer, str) or answer.startswith("torch.cuda."):
            return answer
        return answer.replace("torch.", "torch.cuda.").replace("DoubleTensor", "FloatTensor")

    def full(tensor: Tensor, *args: Any, **options: Any) -> Tensor:
        return tensor if tensor.dtype == torch.float64 else true["float"](tensor, *args, **options)

    standing_in = {"type": spelled, "cuda": lambda tensor, *_, **__: tensor, "float": full}
    try:
        for name, method in standing_in.items():
            setattr(Tensor, name, method)
        yield
    finally:
        for name, method in true.items():
            setattr(Tensor, name, method)


def _use_cpu_random_state() -> None:
    """The tracker of random states keeps CPU states (tensor_parallel/random.py, lines 41 and 72), and does not warn
    that the CPU state moved while it was in use (line 263)."""
    random = importlib.import_module(CORE + "tensor_parallel.random")
    vars(random)["_get_cuda_rng_state"] = lambda *_, **__: torch.get_rng_state()
    vars(random)["_set_cuda_rng_state"] = lambda state, *_, **__: torch.set_rng_state(state)
    logging.getLogger(random.__name__).addFilter(
        lambda record: record.msg != "CPU RNG state changed within GPU RNG context"
    )


def _load_shards_on_cpu(view: CpuTorch) -> None:
    """Shards that one rank loads for others are made on the CPU (dist_checkpointing/exchange_utils.py, line 98)."""
    mapping = importlib.import_module(CORE + "dist_checkpointing.mapping")
    mapping.ShardedTensor.init_data.__defaults__ = (view.empty,)


def _split_sizes_as_numbers() -> None:
    """The sizes in which tokens are sent to experts become numbers where they are asked for as such; upstream converts
    CUDA tensors alone (transformer/moe/moe_utils.py, line 1093)."""

    def as_asked(value: Any, as_numpy: bool = False, record_stream: bool = False) -> Any:
        return value.numpy() if as_numpy and isinstance(value, Tensor) else value

    vars(importlib.import_module(CORE + "transformer.moe.token_dispatcher"))["maybe_move_tensor_to_cpu"] = as_asked


def _pad_uneven_parts() -> None:
    """Experts' ranks gather as many tokens as each has (tensor_parallel/mappings.py, lines 150 and 196)."""
    mappings = vars(importlib.import_module(CORE + "tensor_parallel.mappings"))
    for name, padded in (
        ("_gather_along_first_dim", uneven.padded_gather),
        ("_reduce_scatter_along_first_dim", uneven.padded_reduce_scatter),
    ):
        mappings[name] = padded(mappings[name])


def _share_gloo_device() -> None:
    """All process groups of a process share one gloo device. By itself torch makes one for each group, whose thread
    looks for messages a hundred times a second: a layout has some thirty groups, and idle ranks kept cores busy."""
    group: Any = distributed_c10d.ProcessGroupGloo
    by_itself, device = group.__init__, functools.cache(group.create_default_device)

    def with_shared_device(self: Any, store: Any, rank: int, size: int, timeout: timedelta) -> None:
        options = group._Options()
        options._timeout, options._threads, options._devices = timeout, 2, [device()]
        by_itself(self, store, rank, size, options)

    group.__init__ = with_shared_device


def _module(place: Assumption) -> ModuleType:
    return importlib.import_module(CORE + place.module)


def _replace(place: Assumption, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Puts the wrapped function in its place, and wherever its module's neighbours imported it by name."""
    *owners, name = place.function.split(".")
    owner: Any = functools.reduce(getattr, owners, _module(place))
    original = getattr(owner, name)
    wrapped = wrap(original)
    setattr(owner, name, wrapped)
    if not owners:
        for neighbour in (_module(other) for other in (*SEES_CPU_TORCH, *SEES_CUDA_TENSORS)):
            if vars(neighbour).get(name) is original:
                vars(neighbour)[name] = wrapped
