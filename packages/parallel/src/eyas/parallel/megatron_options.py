"""What Megatron-Core is told: how it schedules a layout, keeps and reduces gradients, and makes its optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from eyas.parallel import host
from eyas.parallel.layout import Layout
from eyas.parallel.megatron import (
    DistributedDataParallelConfig,
    OptimizerConfig,
    ParamKey,
    ParamPredicate,
    TransformerConfig,
    get_megatron_optimizer,
)
from eyas.parallel.offload import MomentsOnHost
from eyas.parallel.optimizer_state import with_weights
from eyas.parallel.options import OptimizerOptions
from eyas.parallel.parts import Factors


def megatron_config(layout: Layout, hidden_size: int, dtype: torch.dtype) -> TransformerConfig:
    """What schedules, data-parallel buffers and finalization read; the model itself is ours.

    Interleaved stages send as soon as they are done and wait only for what they need next, one message at a time.
    """
    interleaved = layout.virtual_pipeline > 1
    return TransformerConfig(
        num_layers=layout.stage_count,
        hidden_size=hidden_size,
        num_attention_heads=layout.tensor,
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=layout.virtual_pipeline if interleaved else None,
        context_parallel_size=layout.context,
        sequence_parallel=layout.sequence,
        pipeline_dtype=dtype,
        params_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        calculate_per_token_loss=True,
        use_cpu_initialization=True,
        gradient_accumulation_fusion=False,
        overlap_p2p_comm=interleaved,
        batch_p2p_comm=host.batches_messages() and not interleaved,
    )


def buffers(
    model: nn.Module, layout: Layout, dtype: torch.dtype, wide_gradients: bool
) -> DistributedDataParallelConfig:
    """How gradients are kept and reduced over the replicas. Overlapped, they go in parts as the backward pass finishes
    them: Megatron-Core's own parts of 40 million weights would leave a small model whole."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return DistributedDataParallelConfig(
        grad_reduce_in_fp32=wide_gradients and dtype.itemsize < torch.float32.itemsize,
        overlap_grad_reduce=layout.overlap,
        use_distributed_optimizer=layout.distributed_optimizer,
        bucket_size=min(trained // PARTS + 1, MOST_AT_ONCE),
    )


PARTS = 8
MOST_AT_ONCE = 40_000_000
"""Weights; Megatron-Core's `bucket_size` for up to 40 replicas."""


def megatron_optimizer(
    options: OptimizerOptions,
    layout: Layout,
    dtype: torch.dtype,
    chunks: list[nn.Module],
    factors: Mapping[nn.Parameter, Factors],
) -> Any:
    """Megatron-Core's optimizer, with a group of weights for each pair of factors.

    torch's AdamW makes its step in one pass over memory where its groups ask for it; Megatron-Core does not ask.
    """
    options.check_device(torch.cuda.is_available())
    config = OptimizerConfig(
        optimizer="adam",
        lr=options.learning_rate,
        weight_decay=options.weight_decay,
        adam_beta1=options.beta1,
        adam_beta2=options.beta2,
        adam_eps=options.epsilon,
        clip_grad=options.clip_norm,
        params_dtype=dtype,
        bf16=dtype is torch.bfloat16,
        use_distributed_optimizer=layout.distributed_optimizer,
    )
    overrides = {
        ParamKey(
            predicate=ParamPredicate(name=str(pair), fn=lambda parameter, pair=pair: factors[parameter] == pair)
        ): {
            "lr_mult": pair.learning_rate,
            "wd_mult": pair.weight_decay,
        }
        for pair in sorted(set(factors.values()))
    }
    made = get_megatron_optimizer(config, chunks, config_overrides=overrides, use_gloo_process_groups=False)
    for group in made.param_groups:
        group["fused"] = True
    if options.cpu_offload:
        for single in with_weights(made):
            MomentsOnHost(single.optimizer, options.cpu_offload)
    return made
