"""What transformer-engine is handed and gives back, with a stand-in of its signature; tests/test_gpu has itself."""

import sys
import types

import mixers
import pytest
import torch
from torch import nn

from eyas.core.errors import ConfigError
from eyas.layers import grouped_transformer_engine
from eyas.layers.experts import grouped_linear
from eyas.layers.moe import MoE

COUNTS = [3, 0, 2]


class GroupedLinear(nn.Module):
    """The parameters' names, the order of arguments and the dtype check of transformer-engine 2.2 to 2.20."""

    def __init__(
        self, num_gemms, in_features, out_features, sequence_parallel=False, fuse_wgrad_accumulation=False,
        tp_group=None, tp_size=1, get_rng_state_tracker=None, rng_tracker_name=None, init_method=None, bias=True,
        return_bias=False, params_dtype=None, parallel_mode=None, device="cuda",
    ):  # fmt: skip
        super().__init__()
        assert not bias
        self.num_gemms = num_gemms
        for number in range(num_gemms):
            empty = torch.empty(out_features, in_features, device=device, dtype=params_dtype)
            self.register_parameter(f"weight{number}", nn.Parameter(empty))

    def forward(self, inp, m_splits, is_first_microbatch=None):
        assert all(isinstance(rows, int) for rows in m_splits) and len(m_splits) == self.num_gemms
        assert all(weight.dtype == inp.dtype for weight in self.parameters())
        weights = [getattr(self, f"weight{number}") for number in range(self.num_gemms)]
        return torch.cat([rows @ weight.t() for rows, weight in zip(inp.split(m_splits), weights, strict=True)])


@pytest.fixture
def stand_in(monkeypatch):
    """transformer-engine with a GPU, as far as the wrapper can tell."""
    engine = types.ModuleType("transformer_engine.pytorch")
    engine.GroupedLinear = GroupedLinear
    monkeypatch.setitem(sys.modules, "transformer_engine", types.ModuleType("t"))
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch", engine)
    monkeypatch.setattr(grouped_transformer_engine, "check", lambda cuda: None)
    grouped_transformer_engine._grouped_linear.cache_clear()
    yield engine
    grouped_transformer_engine._grouped_linear.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_product_and_its_gradients_equal_the_loop(stand_in, dtype):
    """The stand-in multiplies as the loop does, so that any difference is the wrapper's."""
    for seed in (0, 1):  # the module is kept between calls, its weights are not
        x = mixers.noise(5, 8, seed=seed, dtype=dtype).requires_grad_()
        weight = mixers.noise(3, 16, 8, seed=seed + 2, dtype=dtype).requires_grad_()
        dy = mixers.noise(5, 16, seed=seed + 4, dtype=dtype)
        results = []
        for kernel in ("transformer_engine", "loop"):
            y = grouped_linear(x, COUNTS, weight, kernel)
            results.append([y, *torch.autograd.grad(y, [x, weight], dy)])
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(*results, strict=True))


def test_only_the_name_takes_it(stand_in, monkeypatch):
    """Its products of float32 have fewer digits than torch's: no one gets them unasked."""
    monkeypatch.setattr(stand_in, "GroupedLinear", None)
    x, weight = mixers.noise(5, 8, seed=0, dtype=torch.float32), mixers.noise(3, 16, 8, seed=1, dtype=torch.float32)
    for kernel in ("auto", "grouped", "loop"):
        grouped_linear(x, COUNTS, weight, kernel)
    with pytest.raises(TypeError, match="not callable"):
        grouped_linear(x, COUNTS, weight, "transformer_engine")


def test_float64_is_refused(stand_in):
    with pytest.raises(ConfigError, match="no products in torch.float64; use kernel=loop"):
        grouped_linear(mixers.noise(5, 8, seed=0), COUNTS, mixers.noise(3, 16, 8, seed=1), "transformer_engine")


def test_a_machine_without_it_is_refused(monkeypatch):
    config = MoE.Config(num_experts=4, top_k=2, intermediate_size=8, kernel="transformer_engine")
    with pytest.raises(ConfigError, match="needs a GPU, and there is none here; choose auto, grouped or loop"):
        config.check_device(cuda=False)
    monkeypatch.setattr(grouped_transformer_engine, "available", lambda: False)
    with pytest.raises(ConfigError, match="pip install"):
        config.check_device(cuda=True)
    monkeypatch.setattr(grouped_transformer_engine, "available", lambda: True)
    config.check_device(cuda=True)
    with pytest.raises(ConfigError, match="needs a GPU"):
        grouped_linear(torch.zeros(5, 8), COUNTS, torch.zeros(3, 16, 8), "transformer_engine")
