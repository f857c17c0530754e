import inspect
import logging
from collections.abc import Callable
from functools import reduce
from importlib import import_module

import pytest
import torch

from eyas.parallel import groups, host
from eyas.parallel.cpu_torch import FACTORIES, CpuTorch
from eyas.parallel.layout import Layout
from eyas.parallel.megatron import get_cuda_rng_tracker, model_parallel_cuda_manual_seed
from eyas.parallel.pool import pool

ASSUMPTIONS = (*host.SEES_CPU_TORCH, *host.SEES_CUDA_TENSORS)
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="the host is for machines without a GPU")


@pytest.mark.parametrize("place", ASSUMPTIONS, ids=lambda place: f"{place.module}:{place.line}")
def test_upstream_still_takes_a_gpu_for_granted(place: host.Assumption) -> None:
    """Where this fails, Megatron-Core has changed: drop the entry, or correct it."""
    module = import_module(host.CORE + place.module)
    owner = reduce(getattr, place.function.split("."), module) if place.function else module
    assert place.text in inspect.getsource(inspect.unwrap(owner))


def test_upstream_still_keeps_cuda_random_states() -> None:
    source = inspect.getsource(import_module("megatron.core.tensor_parallel.random"))
    assert "return torch.cuda.random.get_rng_state(device=device)" in source
    assert "default_generator = torch.cuda.default_generators[idx]" in source
    assert "'CPU RNG state changed within GPU RNG context'" in source


def test_upstream_still_loads_shards_for_others_on_the_gpu() -> None:
    assert 'init_data("cuda")' in inspect.getsource(import_module("megatron.core.dist_checkpointing.exchange_utils"))


def test_upstream_still_sends_split_sizes_as_tensors() -> None:
    from megatron.core.transformer.moe import moe_utils

    assert isinstance(moe_utils.maybe_move_tensor_to_cpu(torch.ones(2), as_numpy=True), torch.Tensor)


def test_the_host_is_inert_where_a_gpu_is_present(monkeypatch: pytest.MonkeyPatch) -> None:
    touched: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for step in ("CpuTorch", "_replace", "_use_cpu_random_state", "_load_shards_on_cpu"):
        monkeypatch.setattr(host, step, lambda *_: touched.append(1))
    monkeypatch.setattr(host, "_module", lambda place: touched.append(place))
    assert host.install.__wrapped__() is False
    assert touched == []
    assert host.batches_messages()


@needs_no_gpu
def test_torch_itself_is_left_alone() -> None:
    assert host.install()
    for make in (lambda: torch.zeros(1, device="cuda"), lambda: torch.ones(1).cuda()):
        with pytest.raises((AssertionError, RuntimeError)):
            make()
    assert torch.ones(1).type() == "torch.FloatTensor"
    assert not host.batches_messages()


@needs_no_gpu
@pytest.mark.parametrize("name", FACTORIES)
def test_factories_make_on_the_cpu_what_is_meant_for_a_gpu(name: str) -> None:
    arguments: dict[str, tuple[object, ...]] = {"tensor": ([1.0],), "full": ((2,), 1.0)}
    like = (torch.ones(2), *((1.0,) if name == "full_like" else ()))
    make: Callable[..., torch.Tensor] = getattr(CpuTorch(), name)
    for device in ("cuda", "cuda:1", torch.device("cuda"), torch.device("cuda", 1), "cpu", None):
        made = make(*(like if name.endswith("_like") else arguments.get(name, ((2,),))), device=device)
        assert made.device.type == "cpu"


@pytest.mark.parametrize(
    ("dtype", "spelling"),
    [
        (torch.float32, "torch.cuda.FloatTensor"),
        (torch.bfloat16, "torch.cuda.BFloat16Tensor"),
        (torch.float64, "torch.cuda.FloatTensor"),
    ],
)
def test_a_cpu_tensor_passes_for_a_cuda_tensor_only_inside(dtype: torch.dtype, spelling: str) -> None:
    tensor = torch.ones(1, dtype=dtype)
    outside = tensor.type()
    with pytest.raises(ZeroDivisionError), host.cuda_spelling():  # noqa: PT012
        assert tensor.type() == spelling
        assert tensor.cuda() is tensor
        assert tensor.type(torch.int32).dtype == torch.int32
        assert tensor.float().dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        raise ZeroDivisionError
    assert tensor.type() == outside
    assert tensor.float().dtype == torch.float32


def tracked_numbers() -> tuple[list[float], list[float], list[str]]:
    """Numbers inside and outside a fork of the tracker, twice from one seed, and what was logged."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("megatron").addHandler(handler)
    groups.initialise(Layout())
    inside, outside = [], []
    for forks in (1, 2):
        model_parallel_cuda_manual_seed(7, force_reset_rng=True)
        for _ in range(forks):
            with get_cuda_rng_tracker().fork():
                inside.append(torch.rand(()).item())
        outside.append(torch.rand(()).item())
    logging.getLogger("megatron").removeHandler(handler)
    return inside, outside, lines


@needs_no_gpu
def test_the_random_state_tracker_forks_the_cpu_state() -> None:
    ((inside, outside, lines),) = pool(1).run(tracked_numbers)
    assert inside[0] == inside[1] != inside[2]
    assert outside[0] == outside[1]
    assert lines == []
