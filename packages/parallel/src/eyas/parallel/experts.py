"""Megatron-Core's routing rules and token dispatchers, behind what a mixer's context offers."""

# s this rank's part of the sequence, B batch, T = s B tokens, E experts, N tokens that reach this rank's experts

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from eyas.core.mixer import Placement, Routed
from eyas.core.routing import RoutingRule
from eyas.parallel.layout import Dispatcher
from eyas.parallel.megatron import (
    MoEAllGatherTokenDispatcher,
    MoEAlltoAllTokenDispatcher,
    MoEAuxLossAutoScaler,
    ProcessGroupCollection,
    TransformerConfig,
    moe_utils,
    parallel_state,
)

NEVER_ZERO = 1e-20
"""Keeps a sum of sigmoids from being zero; Megatron-Core's and DeepSeek-V3's value."""


class OneRank:
    """Stands for a process group where there is no job: a single process that generates text, say."""

    def size(self) -> int:
        return 1

    def rank(self) -> int:
        return 0


def route(
    logits_sBE: Tensor, rule: RoutingRule, selection_bias_E: Tensor | None, *, shards: int, pieces: int = 1
) -> Routed:
    """Chooses experts for every token, and attaches the rule's auxiliary losses to the weights where gradients are
    wanted. `shards` ranks of the tensor and context groups hold other parts of the same sequences, and the batch has
    `pieces` rows for each of them."""
    logits_TE = logits_sBE.flatten(0, 1)
    by_sequence_sBE = logits_sBE if pieces == 1 else torch.cat(logits_sBE.chunk(pieces, dim=1))
    losses = auxiliary_losses(by_sequence_sBE, rule, shards) if torch.is_grad_enabled() else []
    with torch.no_grad():
        _, wanted_TE = moe_utils.topk_routing_with_score_function(
            logits_TE,
            rule.top_k,
            use_pre_softmax=rule.score == "softmax",
            num_groups=rule.num_groups,
            group_topk=rule.top_groups,
            score_function="sigmoid" if rule.score == "sigmoid" else "softmax",
            expert_bias=selection_bias_E,
        )
    weights_TE = weights_of(logits_TE, wanted_TE, rule)
    chosen_TE = wanted_TE
    if rule.capacity_factor is not None:
        chosen_TE = within_capacity(weights_TE, wanted_TE, rule)
        weights_TE = weights_TE * chosen_TE
    for loss in losses:
        weights_TE = MoEAuxLossAutoScaler.apply(weights_TE, loss)
    return Routed(weights_TE, chosen_TE, wanted_TE)


def weights_of(logits_TE: Tensor, chosen_TE: Tensor, rule: RoutingRule) -> Tensor:
    """The weights of the chosen, in the dtype of the logits: Megatron-Core's own pass through float32 whatever that is
    (moe_utils.py, lines 711 to 717), which would blur every comparison in float64."""
    match rule.score:
        case "softmax":
            weights_TE = logits_TE.softmax(-1) * chosen_TE
        case "softmax_of_chosen":
            weights_TE = logits_TE.masked_fill(~chosen_TE, -torch.inf).softmax(-1)
        case "sigmoid":
            weights_TE = logits_TE.sigmoid() * chosen_TE
            if rule.top_k > 1:
                weights_TE = weights_TE / (weights_TE.sum(-1, keepdim=True) + NEVER_ZERO)
    return weights_TE * rule.scaling_factor


def within_capacity(weights_TE: Tensor, wanted_TE: Tensor, rule: RoutingRule) -> Tensor:
    """Where a token reaches its expert before that is full. Megatron-Core's own policy "position" takes any of the
    tokens (moe_utils.py, line 848: a top-k among equals), so the first ones are counted here."""
    assert rule.capacity_factor is not None
    if rule.drop_policy == "probability":
        _, kept_TE = moe_utils.apply_router_token_dropping(weights_TE, wanted_TE, rule.top_k, rule.capacity_factor)
        return kept_TE
    capacity = moe_utils.get_capacity(len(weights_TE) * rule.top_k, rule.num_experts, rule.capacity_factor)
    return wanted_TE & (wanted_TE.cumsum(0) <= capacity)


def auxiliary_losses(logits_sBE: Tensor, rule: RoutingRule, shards: int) -> list[Tensor]:
    """The rule's losses, each times the microbatch's tokens: the step divides by the global batch's. Sums over `shards`
    ranks are the whole (Megatron-Core's router multiplies by a rank's own tokens alone: router.py, line 465)."""
    s, B, E = logits_sBE.shape
    losses = []
    if rule.balance_loss or rule.sequence_balance_loss:
        score = "sigmoid" if rule.score == "sigmoid" else "softmax"
        chosen_TE, scores_TE = moe_utils.compute_routing_scores_for_aux_loss(
            logits_sBE.flatten(0, 1), rule.top_k, score_function=score
        )
        for coefficient, rows in ((rule.balance_loss, s * B), (rule.sequence_balance_loss, s)):
            if coefficient:
                counts = summed(chosen_TE.view(rows, -1).sum(0), shards)
                loss = moe_utils.switch_load_balancing_loss_func(
                    scores_TE.reshape(rows, -1), counts, rows * shards, rule.top_k, E, coefficient
                )
                losses.append(loss * (rows * shards))
    if rule.z_loss:
        losses.append(moe_utils.z_loss_func(logits_sBE, rule.z_loss) * (s * B))
    return losses


def summed(counts: Tensor, shards: int) -> Tensor:
    """The sum over the tensor and context groups where their ranks hold other tokens; no backward."""
    if shards > 1:
        dist.all_reduce(counts, group=parallel_state.get_tensor_and_context_parallel_group())
    return counts


@dataclass
class DispatchedTokens:
    """Implements eyas.core.mixer.Dispatched."""

    dispatcher: Any
    tokens: Tensor
    counts: list[int]
    weights: Tensor

    def combine(self, outputs: Tensor) -> Tensor:
        partial = self.dispatcher.token_combine(self.dispatcher.combine_preprocess(outputs))
        combined: Tensor = self.dispatcher.combine_postprocess(partial)
        return combined


def dispatch(x_sBD: Tensor, routed: Routed, rule: RoutingRule, kind: Dispatcher, place: Placement) -> DispatchedTokens:
    """Sends this rank's tokens to their experts."""
    make = MoEAlltoAllTokenDispatcher if kind == "alltoall" else MoEAllGatherTokenDispatcher
    own = rule.num_experts // place.expert
    config = dispatcher_config(rule, place.expert, place.expert_tensor)
    indices = list(range(place.expert_rank * own, (place.expert_rank + 1) * own))
    dispatcher = make(own, indices, config, pg_collection=expert_groups())
    tokens, weights = dispatcher.dispatch_preprocess(x_sBD, routed.chosen_TE, routed.weights_TE)
    tokens, weights = dispatcher.token_dispatch(tokens, weights)
    tokens, counts, weights = dispatcher.dispatch_postprocess(tokens, weights)
    return DispatchedTokens(dispatcher, tokens, counts.tolist(), weights)


@cache
def dispatcher_config(rule: RoutingRule, expert: int, tensor: int) -> TransformerConfig:
    """What a dispatcher reads of Megatron-Core's configuration."""
    return TransformerConfig(
        num_layers=1,
        hidden_size=tensor,
        num_attention_heads=tensor,
        tensor_model_parallel_size=tensor,
        sequence_parallel=tensor > 1,
        expert_model_parallel_size=expert,
        expert_tensor_parallel_size=tensor,
        num_moe_experts=rule.num_experts,
        moe_router_topk=rule.top_k,
        moe_ffn_hidden_size=1,
        moe_router_dtype="fp32",
        moe_router_pre_softmax=True,
        moe_expert_capacity_factor=rule.capacity_factor,
        add_bias_linear=False,
        use_cpu_initialization=True,
    )


def expert_groups() -> ProcessGroupCollection:
    """The process groups that experts are spread over; groups of one where there is no job."""
    groups = ProcessGroupCollection()
    if not dist.is_initialized():
        groups.ep = groups.expt_tp = groups.tp_ep = OneRank()
        return groups
    groups.ep = parallel_state.get_expert_model_parallel_group()
    groups.expt_tp = parallel_state.get_expert_tensor_parallel_group()
    groups.tp_ep = parallel_state.get_expert_tensor_and_model_parallel_group()
    return groups
