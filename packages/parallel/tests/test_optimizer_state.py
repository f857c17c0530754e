"""The count of steps in a checkpoint, whichever Adam made them."""

from types import SimpleNamespace

import pytest
import torch

from eyas.parallel import optimizer_state
from eyas.parallel.adam_state import counts_by_group
from eyas.parallel.optimizer_state import steps_done


class FusedAdam(torch.optim.SGD):
    """Counts as transformer-engine's and Apex's do."""


def chain(*adams):
    """A ChainedOptimizer, with one that has nothing to change."""
    stub = SimpleNamespace(optimizer=None, param_groups=[])
    with_some = [SimpleNamespace(optimizer=adam, param_groups=adam.param_groups) for adam in adams]
    return SimpleNamespace(chained_optimizers=[stub, *with_some])


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setattr(optimizer_state, "over_ranks", lambda numbers: torch.tensor([numbers]))


@pytest.mark.parametrize("steps", [0, 3])
def test_steps_are_counted_by_weight_or_by_group(steps):
    weight = torch.ones(2, requires_grad=True)
    adam, fused = torch.optim.AdamW([weight]), FusedAdam([weight])
    weight.grad = torch.ones(2)
    for number in range(steps):
        adam.step()
        fused.param_groups[0]["step"] = number + 1
    assert steps_done(chain(adam)) == steps_done(chain(fused)) == steps
    assert (counts_by_group(adam), counts_by_group(fused)) == (False, True)
