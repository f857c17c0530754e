"""Megatron-Core's own schedules, buffers, optimizers and checkpoints on this machine, around a stack of toy blocks."""

import tempfile
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from eyas.parallel import groups, host
from eyas.parallel.layout import Layout
from eyas.parallel.megatron import (
    DistributedDataParallel,
    DistributedDataParallelConfig,
    FullyParallelLoadStrategyWrapper,
    FullyParallelSaveStrategyWrapper,
    ModelType,
    OptimizerConfig,
    ShardedTensor,
    TransformerConfig,
    dist_checkpointing,
    finalize_model_grads,
    get_forward_backward_func,
    get_megatron_optimizer,
    parallel_state,
)
from eyas.parallel.pool import pool

BLOCKS, S, B, D, MICROBATCHES = 4, 4, 2, 8, 8
Outcome = tuple[list[float], dict[str, Tensor]]
"""Gradient norm of each step, and the weights after the last."""


class Stack(nn.Module):
    """One stage of a residual stack; its weights depend on the block alone."""

    model_type = ModelType.encoder_or_decoder
    share_embeddings_and_output_weights = False

    def __init__(self, config: TransformerConfig, blocks: range, dtype: torch.dtype) -> None:
        super().__init__()
        self.config = config
        self.pre_process = parallel_state.is_pipeline_first_stage()
        self.post_process = parallel_state.is_pipeline_last_stage()
        self.received: Tensor | None = None
        self.blocks = nn.ModuleDict({str(block): nn.Linear(D, D) for block in blocks})
        for block, linear in self.blocks.items():
            generator = torch.Generator().manual_seed(int(block))
            for weight in linear.parameters():
                weight.data = torch.randn(weight.shape, generator=generator, dtype=torch.float64).mul_(0.3).to(dtype)

    def set_input_tensor(self, received: list[Tensor | None]) -> None:
        self.received = received[0]

    def forward(self, x_SBD: Tensor) -> Tensor:
        h_SBD = x_SBD if self.received is None else self.received
        for block in self.blocks.values():
            h_SBD = h_SBD + torch.tanh(block(h_SBD))
        return h_SBD

    def shards(self) -> dict[str, ShardedTensor]:
        replica = (0, parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_data_parallel_rank())
        return {
            name: ShardedTensor.from_rank_offsets(name, weight, replica_id=replica)
            for name, weight in self.named_parameters()
        }


class Trainer:
    """One rank's chunk and optimizer."""

    def __init__(self, layout: Layout, dtype: torch.dtype) -> None:
        groups.initialise(layout)
        self.dtype = dtype
        bf16, sharded = dtype == torch.bfloat16, layout.distributed_optimizer
        config = TransformerConfig(
            num_layers=BLOCKS,
            hidden_size=D,
            num_attention_heads=1,
            pipeline_model_parallel_size=layout.pipeline,
            pipeline_dtype=dtype,
            params_dtype=dtype,
            bf16=bf16,
            use_cpu_initialization=True,
            gradient_accumulation_fusion=False,
            batch_p2p_comm=host.batches_messages(),
            finalize_model_grads_func=finalize_model_grads,
        )
        share = BLOCKS // layout.pipeline
        first = share * parallel_state.get_pipeline_model_parallel_rank()
        self.stack = Stack(config, range(first, first + share), dtype)
        buffers = DistributedDataParallelConfig(use_distributed_optimizer=sharded, grad_reduce_in_fp32=bf16)
        self.chunk = DistributedDataParallel(config, buffers, self.stack)
        adam = OptimizerConfig(
            optimizer="adam",
            lr=0.1,
            weight_decay=0.1,
            clip_grad=1.0,
            params_dtype=dtype,
            bf16=bf16,
            use_distributed_optimizer=sharded,
        )
        self.optimizer = get_megatron_optimizer(adam, [self.chunk], use_gloo_process_groups=False)

    def step(self, number: int) -> float:
        """One optimizer step on the step's own batch; returns the gradient's norm."""
        generator = torch.Generator().manual_seed(100 + number)
        batch = torch.randn(MICROBATCHES, S, B, D, generator=generator, dtype=torch.float64).to(self.dtype)
        mine = batch.chunk(parallel_state.get_data_parallel_world_size())[parallel_state.get_data_parallel_rank()]
        self.chunk.zero_grad_buffer()
        self.optimizer.zero_grad()
        get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iter(mine),
            model=[self.chunk],
            num_microbatches=len(mine),
            seq_length=S,
            micro_batch_size=B,
            forward_only=False,
        )
        updated, norm, _ = self.optimizer.step()
        assert updated
        return float(norm)

    def state(self, *, loading: bool) -> dict[str, Any]:
        weights = self.stack.shards()
        metadata = {"distrib_optim_sharding_type": "fully_reshardable"}
        optimizer = self.optimizer.sharded_state_dict(weights, is_loading=loading, metadata=metadata)
        return {"model": weights, "optimizer": optimizer}

    def outcome(self, norms: list[float]) -> Outcome:
        parts: list[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(parts, {name: weight.detach() for name, weight in self.stack.named_parameters()})
        return norms, {name: weight for part in parts for name, weight in part.items()}


def forward_step(microbatches: Iterator[Tensor], chunk: nn.Module) -> tuple[Tensor, Any]:
    return chunk(next(microbatches)), lambda out: (out.square().mean(), {})


def train(layout: Layout, dtype: torch.dtype, steps: int = 3) -> Outcome:
    trainer = Trainer(layout, dtype)
    return trainer.outcome([trainer.step(number) for number in range(steps)])


def save(layout: Layout, dtype: torch.dtype, folder: str, after: int, parallel: bool = False) -> None:
    trainer = Trainer(layout, dtype)
    for number in range(after):
        trainer.step(number)
    strategy = dist_checkpointing.serialization.get_default_save_sharded_strategy()
    if parallel:
        strategy = FullyParallelSaveStrategyWrapper(strategy, parallel_state.get_data_parallel_group())
    dist_checkpointing.save(trainer.state(loading=False), folder, strategy)


def load(layout: Layout, dtype: torch.dtype, folder: str, after: int, parallel: bool = False) -> Outcome:
    """Spoils the weights, loads the checkpoint and trains to step 3."""
    trainer = Trainer(layout, dtype)
    with torch.no_grad():
        for weight in trainer.stack.parameters():
            weight.add_(1.0)
    strategy = dist_checkpointing.serialization.get_default_load_sharded_strategy(folder)
    if parallel:
        strategy = FullyParallelLoadStrategyWrapper(strategy, parallel_state.get_data_parallel_group())
    state = dist_checkpointing.load(trainer.state(loading=True), folder, strategy)
    trainer.stack.load_state_dict(state["model"])
    trainer.optimizer.load_state_dict(state["optimizer"])
    return trainer.outcome([trainer.step(number) for number in range(after, 3)])


@cache
def alone(dtype: torch.dtype) -> Outcome:
    return pool(1).run(train, Layout(), dtype)[0]


LAYOUTS = [
    Layout(distributed_optimizer=True),
    Layout(data=2),
    Layout(data=4, distributed_optimizer=True),
    Layout(pipeline=2),
    Layout(pipeline=4),
    Layout(pipeline=2, data=2, distributed_optimizer=True),
]
TOLERANCE = {torch.float64: 2e-7, torch.float32: 5e-6, torch.bfloat16: 2e-2}
"""Float64 is limited by the gradient norm, which Megatron-Core computes in float32 and clips by."""


def assert_same(actual: Outcome, expected: Outcome, dtype: torch.dtype, layout: Layout) -> None:
    norms, weights = actual
    last = expected[0][-len(norms) :]
    torch.testing.assert_close(norms, last, rtol=TOLERANCE[dtype], atol=0, msg=f"gradient norms, {layout}")
    assert weights.keys() == expected[1].keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, expected[1][name], rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_layouts_train_alike(layout: Layout, dtype: torch.dtype) -> None:
    assert_same(pool(layout.processes).run(train, layout, dtype)[0], alone(dtype), dtype, layout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("after", [1, 2])
@pytest.mark.parametrize(
    ("saved", "loaded", "parallel"),
    [
        (Layout(), Layout(pipeline=2), False),
        (Layout(data=2, distributed_optimizer=True), Layout(distributed_optimizer=True), False),
        (Layout(distributed_optimizer=True), Layout(pipeline=2, data=2, distributed_optimizer=True), False),
        (Layout(data=2, distributed_optimizer=True), Layout(data=4, distributed_optimizer=True), True),
    ],
    ids=str,
)
def test_training_goes_on_from_a_checkpoint_on_another_layout(
    saved: Layout, loaded: Layout, parallel: bool, after: int, dtype: torch.dtype
) -> None:
    assert_same(saved_and_loaded(saved, loaded, dtype, after, parallel), alone(dtype), dtype, loaded)


def test_the_distributed_optimizer_can_be_saved_before_its_first_step() -> None:
    layout = Layout(data=2, distributed_optimizer=True)
    assert_same(saved_and_loaded(layout, layout, torch.float32, after=0), alone(torch.float32), torch.float32, layout)


def saved_and_loaded(saved: Layout, loaded: Layout, dtype: torch.dtype, after: int, parallel: bool = False) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        pool(saved.processes).run(save, saved, dtype, folder, after, parallel)
        return pool(loaded.processes).run(load, loaded, dtype, folder, after, parallel)[0]
