"""What Lightning's strategy does apart from training, which runs show."""

import torch
from lightning.pytorch.accelerators import CPUAccelerator
from torch import nn

from eyas.parallel.layout import Layout
from eyas.parallel.strategy import MegatronStrategy


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
