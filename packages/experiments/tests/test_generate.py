"""What of a run's model is changed for decoding, and what is decoded together."""

import pytest

from eyas.core.errors import ConfigError
from eyas.core.model import load_model
from eyas.experiments.generate import batches, check_speculation, on_cpu

LAYERS = {
    "ssm": {"kind": "mamba2", "num_heads": 2, "head_dim": 4, "state_size": 4},
    "moe": {"kind": "moe", "num_experts": 4, "top_k": 2, "intermediate_size": 8},
}


def model(**options: dict[str, object]):
    """A model whose layers have further options."""
    layers = {name: layer | options.get(name, {}) for name, layer in LAYERS.items()}
    return load_model({"hidden_size": 8, "vocab_size": 11, "layers": layers, "pattern": ["ssm", "moe"]})


def test_kernels_of_a_gpu_make_way_for_those_of_the_cpu():
    decoded = on_cpu(model(ssm={"kernel": "mamba_ssm"}, moe={"kernel": "transformer_engine"}))
    assert [layer.kernel for layer in decoded.layers.values()] == ["auto", "auto"]
    chosen = model(ssm={"kernel": "sequential"}, moe={"kernel": "loop"})
    assert on_cpu(chosen) == chosen


@pytest.mark.parametrize(("capacity", "alone"), [(None, False), (1.0, True)])
def test_prompts_are_decoded_one_by_one_where_they_would_take_each_others_places(capacity, alone):
    prompts = [[1, 2], [3]]
    found = list(batches(model(moe={"capacity_factor": capacity}), prompts))
    assert found == ([(0, [[1, 2]]), (1, [[3]])] if alone else [(0, prompts)])


def test_drafts_are_not_judged_where_tokens_are_dropped_by_how_many_there_are():
    check_speculation(model())
    with pytest.raises(ConfigError, match=r"model\.layers\.moe\.capacity_factor drops tokens.*leave out --speculate"):
        check_speculation(model(moe={"capacity_factor": 1.0}))
