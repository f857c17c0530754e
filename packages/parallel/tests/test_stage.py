import torch
from torch import nn

from eyas.parallel.stage import joined


def stage(blocks: range, **more: nn.Module) -> nn.Module:
    module = nn.Module()
    module.blocks = nn.ModuleDict({str(block): nn.Linear(2, 2) for block in blocks})
    module.register_buffer(f"seen_{blocks.start}", torch.zeros(1))
    for name, child in more.items():
        module.add_module(name, child)
    return module


def test_joined_stages_hold_every_weight_once_under_its_name() -> None:
    first, second = stage(range(2), embedding=nn.Embedding(3, 2)), stage(range(4, 6), head=nn.Linear(2, 3))
    together = joined([first, second])
    expected = {
        name: id(tensor) for part in (first, second) for name, tensor in part.state_dict(keep_vars=True).items()
    }
    assert {name: id(tensor) for name, tensor in together.state_dict(keep_vars=True).items()} == expected
    assert {"blocks.0", "blocks.5", "head"} < {name for name, _ in together.named_modules()}


def test_one_stage_is_joined_already() -> None:
    only = stage(range(2))
    assert joined([only]) is only
