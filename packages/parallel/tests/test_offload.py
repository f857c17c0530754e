"""Optimizer state in the host's memory: asked of Megatron-Core on a GPU, refused without one."""

from types import SimpleNamespace

import pytest
import torch

from eyas.core.errors import ConfigError
from eyas.parallel import megatron_options, options
from eyas.parallel.layout import Layout
from eyas.parallel.options import OptimizerOptions


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_megatron_is_asked_for_the_share_on_a_gpu(share, monkeypatch):
    asked = []

    def get(config, chunks, **_):
        asked.append(config)
        return SimpleNamespace(param_groups=[])

    monkeypatch.setattr(megatron_options, "get_megatron_optimizer", get)
    # Megatron-Core's own configuration asks for transformer-engine.
    monkeypatch.setattr(megatron_options, "OptimizerConfig", SimpleNamespace)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(options, "find_spec", lambda name: name)
    layout = Layout(data=2, distributed_optimizer=True)
    megatron_options.megatron_optimizer(OptimizerOptions(cpu_offload=share), layout, torch.float32, [], {})
    (config,) = asked
    assert config.use_precision_aware_optimizer == (share > 0)
    assert (config.optimizer_cpu_offload, config.optimizer_offload_fraction) == (share > 0, share)


def test_a_machine_without_a_gpu_refuses(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match=r"optimizer.cpu_offload=0.5 moves .* has no GPU .* set it to 0"):
        megatron_options.megatron_optimizer(OptimizerOptions(cpu_offload=0.5), Layout(), torch.float32, [], {})


def test_a_gpu_without_transformer_engine_is_refused(monkeypatch):
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"optimizer.cpu_offload=0.5 needs transformer-engine; pip install"):
        OptimizerOptions(cpu_offload=0.5).check_device(gpu=True)
