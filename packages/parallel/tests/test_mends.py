"""Megatron-Core still needs what is mended in it; each mend has its effect shown where it is used."""

import inspect
from importlib import import_module

import pytest

NEEDED = {
    "float32 weights are left out of the map": (
        "optimizer.optimizer.Float16OptimizerWithFloat16Params.sharded_state_dict",
        "chain.from_iterable(g for g in self.float16_groups)",
    ),
    "and shift the others": (
        "optimizer.optimizer.Float16OptimizerWithFloat16Params.sharded_state_dict",
        "for param_id, fp32_param in zip(state_group['params'], fp32_group)",
    ),
    "places are noted in one order": (
        "optimizer.distrib_optimizer.DistributedOptimizer._build_optimizer_group_ranges",
        'local_param_group_map[param] = (group_index, len(group_range["params"]) - 1)',
    ),
    "and filled in another": (
        "optimizer.distrib_optimizer.DistributedOptimizer._build_model_and_main_param_groups",
        "*shard_fp32_params_this_group,\n                    *shard_fp32_from_float16_params_this_group,",
    ),
    "padding is taken out": (
        "optimizer.distrib_optimizer.DistributedOptimizer.get_parameter_state_dp_zero",
        "offset_in_world_tensors += gbuf_world_numel_unpadded",
    ),
    "and reckoned with": (
        "optimizer.distrib_optimizer.DistributedOptimizer.sharded_param_state_fully_reshardable",
        "state_ten = world_tensors[state_key][param_world_start:param_world_end]",
    ),
}


@pytest.mark.parametrize(("place", "text"), NEEDED.values(), ids=NEEDED.keys())
def test_upstream_still_needs_the_mend(place: str, text: str) -> None:
    """Where this fails, Megatron-Core has changed: drop the mend, or correct it."""
    assert text in source(place)


def test_upstream_still_saves_the_distributed_optimizer_in_float32() -> None:
    """Where this fails, trainer.precision=float64 need not be refused beside layout.distributed_optimizer=true."""
    saving = source("optimizer.distrib_optimizer.DistributedOptimizer.get_parameter_state_dp_zero")
    assert "key: torch.zeros((gbuf_local_numel,), dtype=torch.float32, device" in saving


def source(place: str) -> str:
    """Of a method of Megatron-Core's."""
    module, owner, name = place.rsplit(".", 2)
    return inspect.getsource(inspect.unwrap(getattr(getattr(import_module(f"megatron.core.{module}"), owner), name)))
