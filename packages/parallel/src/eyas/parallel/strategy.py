"""Lightning's strategy for Megatron-Core: Lightning owns the loop, Megatron owns the step.

One Lightning batch is one global batch (this replica's part of it) and one `training_step` is one optimizer step, so
`max_steps`, progress, validation intervals, callbacks and loggers mean what their documentation says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only as fabric_rank_zero_only
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ParallelStrategy
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

from eyas.parallel import checkpoint, checkpoint_folder, groups
from eyas.parallel.engine import Engine
from eyas.parallel.layout import Layout
from eyas.parallel.this_rank import device_here


class TrainsWithEngine(Protocol):
    """What the strategy needs of a LightningModule."""

    def make_engine(self, fitting: bool) -> Engine:
        """The engine around the model of `configure_model`; without an optimizer unless fitting."""
        ...


class EngineOptimizer(torch.optim.Optimizer):
    """torch.optim's face of the engine: lets Lightning count steps. `values` are set before each."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.defaults = {}
        self.values = (0.0, 0.0)
        self.result = (True, 0.0)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]  # an attribute elsewhere
        assert self.engine.optimizer is not None
        return self.engine.optimizer.param_groups

    @property
    def state(self) -> Mapping[Any, Any]:  # type: ignore[override]  # an attribute elsewhere
        return {}

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One optimizer step with `values`, learning rate and weight decay; leaves its outcome in `result`. Calls
        `closure` before it and returns its result, as torch does; Lightning's is empty, as optimization is manual."""
        loss = None if closure is None else closure()
        self.result = self.engine.update(*self.values)
        return loss


class MegatronStrategy(ParallelStrategy):
    """Runs a LightningModule on Megatron-Core's process groups; the processes come from torch's launcher or SLURM."""

    strategy_name = "megatron"
    restore_checkpoint_after_setup = True
    """The model exists only after `setup`."""
    lightning_restore_optimizer = True

    def __init__(self, layout: Layout) -> None:
        super().__init__(cluster_environment=TorchElasticEnvironment())
        self.layout = layout
        self.engine: Engine | None = None
        self._loaded: dict[str, Any] = {}

    @property
    def root_device(self) -> torch.device:
        return device_here()

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        raise NotImplementedError("sampling follows the layout; give Trainer(use_distributed_sampler=False)")

    def setup_environment(self) -> None:
        groups.initialise(self.layout)
        super().setup_environment()
        fabric_rank_zero_only.rank = rank_zero_only.rank = self.global_rank  # type: ignore[attr-defined]  # kept on the function

    def setup(self, trainer: Trainer) -> None:
        assert self.accelerator is not None
        self.accelerator.setup(trainer)
        # Lightning's answer to SIGTERM is a broadcast that other ranks do not expect, and an exit code of zero.
        trainer._signal_connector.register_signal_handlers = lambda: None  # type: ignore[method-assign]  # has no setting
        module: TrainsWithEngine = self.lightning_module  # type: ignore[assignment]  # known as a LightningModule alone
        fitting = trainer.state.fn == "fit"
        self.engine = module.make_engine(fitting)
        self.optimizers = [EngineOptimizer(self.engine)] if fitting else []
        self.lr_scheduler_configs = []

    def model_to_device(self) -> None:
        """Nothing: weights are made on their device."""

    def process_dataloader(self, dataloader: object) -> object:
        return dataloader

    @contextmanager
    def tensor_init_context(self, empty_init: bool | None = None) -> Iterator[None]:
        """Nothing: the layout decides device and dtype."""
        yield

    def optimizer_step(self, optimizer: Any, closure: Any, model: Any = None, **options: Any) -> None:
        """Calls the optimizer alone: the closure's work, forward and backward, is done in `training_step`."""
        optimizer.step()

    def reduce(self, tensor: Any, group: Any = None, reduce_op: Any = "mean") -> Any:
        """Mean or sum over all ranks; what is logged is equal on all of them already."""
        if not isinstance(tensor, Tensor):
            return tensor
        total = tensor.clone()
        dist.all_reduce(total, group=group)
        return total / dist.get_world_size(group) if str(reduce_op).lower() in ("mean", "avg") else total

    def barrier(self, name: str | None = None) -> None:
        dist.barrier()

    def broadcast(self, obj: Any, src: int = 0) -> Any:
        box = [obj]
        dist.broadcast_object_list(box, src)
        return box[0]

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Empty: weights are saved as shards, beside Lightning's own state."""
        return {}

    def optimizer_state(self, optimizer: Any) -> dict[str, Any]:
        """Empty, for the same reason."""
        return {}

    def save_checkpoint(self, checkpoint_: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        assert self.engine is not None
        checkpoint.save({**self.engine.sharded_state(loading=False), "lightning": checkpoint_}, Path(filepath))

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        assert self.engine is not None
        self._loaded = checkpoint.load(self.engine.sharded_state(loading=True), Path(checkpoint_path))
        return self._loaded.pop("lightning")

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        assert self.engine is not None
        self.engine.model.load_state_dict(self._loaded.pop("model"), strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        assert self.engine is not None
        self.engine.load_optimizer(self._loaded.pop("optimizer"))

    def remove_checkpoint(self, filepath: Any) -> None:
        if self.is_global_zero:
            checkpoint_folder.delete(Path(filepath))

    def teardown(self) -> None:
        """Leaves the model on its device, where Lightning's own would move it to the CPU: it is validated once more."""
        assert self.accelerator is not None and self.cluster_environment is not None
        self.optimizers = []
        for part in (self.cluster_environment, self.precision_plugin, self.accelerator, self.checkpoint_io):
            part.teardown()
