"""What Lightning's strategy does apart from training, which runs show."""

from types import SimpleNamespace

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from torch import nn

from eyas.parallel.layout import Layout
from eyas.parallel.strategy import EngineOptimizer, MegatronStrategy


class Staying(nn.Module):
    """A model that must not be moved."""

    def _apply(self, fn, recurse=True):
        raise AssertionError("moved")


def test_a_model_stays_on_its_device_after_training():
    """It is validated once more, with batches on that device."""
    strategy = MegatronStrategy(Layout())
    strategy.accelerator = CPUAccelerator()
    strategy._lightning_module = Staying()
    strategy.optimizers = [torch.optim.SGD([torch.zeros(1)])]
    strategy.teardown()
    assert strategy.optimizers == []


def test_a_closure_is_called_before_the_step_and_its_loss_returned() -> None:
    called: list[str] = []
    engine = SimpleNamespace(update=lambda *values: called.append(f"update {values}") or (True, 2.0))
    optimizer = EngineOptimizer(engine)
    optimizer.values = (0.5, 0.1)
    assert EngineOptimizer.step(optimizer, lambda: called.append("closure") or 3.0) == 3.0
    assert EngineOptimizer.step(optimizer) is None
    assert called == ["closure", "update (0.5, 0.1)", "update (0.5, 0.1)"]
    assert optimizer.result == (True, 2.0)
