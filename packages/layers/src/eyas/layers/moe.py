"""Mixture of experts: a router sends each token to a few feed-forward experts (Shazeer et al., 2017).

With DeepSeek-V3's balancing without auxiliary loss (Wang et al., 2024), shared experts (Dai et al., 2024), and
LatentMoE (Nemotron 3, 2025), whose experts work in a narrower space.
"""

# S sequence, s this rank's part of it, B batch, D hidden, E experts, F neurons of an expert, T tokens of this rank

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from eyas.core.errors import ConfigError
from eyas.core.mixer import Mixer, MixerContext, Placement, Routed
from eyas.core.mixer_config import FlopConvention, MixerConfig, at_least_one
from eyas.core.registry import register
from eyas.core.routing import DropPolicy, RoutingRule, Score
from eyas.core.weights import WHOLE, Axis, Coordinates, Weight, column, per_expert, replicated, row
from eyas.layers import grouped_transformer_engine
from eyas.layers.experts import Kernel, experts, grouped_takes
from eyas.layers.initial import zeros
from eyas.layers.linear import linear
from eyas.layers.mlp import ACTIVATIONS


@register("moe", symbol="E")
class MoE(Mixer):
    """Mixture of experts: top-k router, grouped experts, shared experts, balancing by loss or bias; also LatentMoE."""

    @dataclass(frozen=True, kw_only=True)
    class Config(MixerConfig):
        """Options of the mixture."""

        owns_tokens = True
        carries_context = True

        num_experts: int
        top_k: int
        """Experts of each token."""
        intermediate_size: int
        """Neurons of an expert; split over the tensor-parallel ranks inside experts."""
        gated: bool = True
        activation: Literal["silu", "gelu", "squared_relu"] = "silu"
        score: Score = "softmax_of_chosen"
        """Weights of the chosen: `softmax` over all experts, `softmax_of_chosen`, or `sigmoid` made to sum to one."""
        num_groups: int | None = None
        """Equal groups of experts, of which a token may use only top_groups; null for no groups."""
        top_groups: int | None = None
        scaling_factor: float = 1.0
        """Scales the weights of the chosen."""
        selection_bias_rate: float | None = None
        """Step of the bias that balances the load by shifting the choice, once per global batch; null for no bias."""
        balance_loss: float = 0.0
        """Coefficient of the load-balancing loss over a microbatch."""
        sequence_balance_loss: float = 0.0
        """Coefficient of the load-balancing loss over each sequence."""
        z_loss: float = 0.0
        """Coefficient of the mean squared logsumexp of the router's logits."""
        capacity_factor: float | None = None
        """An expert takes at most this many times its even share of a rank's tokens; null drops none."""
        drop_policy: DropPolicy = "probability"
        """Which tokens stay: those of the greatest weight, or the first."""
        shared_size: int | None = None
        """Neurons of the shared expert, which sees every token; null for none."""
        shared_output_gate: bool = False
        """Whether a sigmoid of the token scales the shared expert's output (Qwen2-MoE)."""
        latent_size: int | None = None
        """Width in which the experts work, between two projections that all share; null for the model's own."""
        output_multiplier: float | None = None
        weigh_inside: bool = True
        """Weigh before an expert's last projection (less to keep for the backward pass), or after it."""
        kernel: Kernel = "auto"
        """`grouped` multiplies all experts' matrices at once, `transformer_engine` by that library's product for a GPU,
        `loop` one by one; auto: grouped where possible, through oneDNN on CPUs where that is faster."""

        def __post_init__(self) -> None:
            at_least_one(self, "num_experts", "intermediate_size", "shared_size", "latent_size")
            if self.selection_bias_rate is not None and self.score != "sigmoid":
                raise ConfigError(
                    f"selection_bias_rate={self.selection_bias_rate} needs score=sigmoid, not {self.score}; "
                    "or set it to null and use balance_loss"
                )
            if self.shared_output_gate and self.shared_size is None:
                raise ConfigError("shared_output_gate=true needs a shared expert; set shared_size")
            _ = self.rule

        @cached_property
        def rule(self) -> RoutingRule:
            """How tokens choose."""
            return RoutingRule(**{field.name: getattr(self, field.name) for field in fields(RoutingRule)})

        @property
        def sees_sequence(self) -> bool:
            return self.shared_size is not None

        @property
        def carries_documents(self) -> bool:  # type: ignore[override]  # a constant elsewhere, here an option decides
            """With a capacity, tokens of one document push out those of another."""
            return self.capacity_factor is None

        @classmethod
        def sizes_for(cls, hidden_size: int) -> dict[str, int]:
            return {"num_experts": 8, "top_k": 2, "intermediate_size": 2 * hidden_size}

        def weights(self, hidden_size: int) -> dict[str, Weight]:
            neurons = Axis("intermediate_size", self.intermediate_size)
            E, width = self.num_experts, self.latent_size or hidden_size
            declared = {"router": replicated(E, hidden_size, float32=True)}
            if self.selection_bias_rate is not None:
                declared["selection_bias"] = replicated(E, init=zeros, float32=True, trained=False)
            if self.latent_size is not None:
                declared["latent_down"] = replicated(width, hidden_size)
                declared["latent_up"] = replicated(hidden_size, width)
            for name in ("gate", "up") if self.gated else ("up",):
                declared[name] = per_expert(E, column(neurons, 1, width))
            declared["down"] = per_expert(E, row(width, neurons, 1))
            if self.shared_size is not None:
                shared = Axis("shared_size", self.shared_size)
                for name in ("gate", "up") if self.gated else ("up",):
                    declared[f"shared_{name}"] = column(shared, 1, hidden_size)
                declared["shared_down"] = row(hidden_size, shared, 1)
            if self.shared_output_gate:
                declared["shared_output_gate"] = replicated(1, hidden_size)
            return declared

        def active_parameters(self, hidden_size: int) -> int:
            width, matrices = self.latent_size or hidden_size, 3 if self.gated else 2
            idle = (self.num_experts - self.top_k) * matrices * width * self.intermediate_size
            return self.parameters(hidden_size) - idle

        def flops(self, hidden_size: int, sequence_length: int, convention: FlopConvention = "exact") -> float:
            width, matrices = self.latent_size or hidden_size, 3 if self.gated else 2
            routed = 2.0 * matrices * width * self.intermediate_size * self.top_k
            shared = 2.0 * matrices * hidden_size * (self.shared_size or 0)
            latent = 4.0 * hidden_size * (self.latent_size or 0)
            exact = 2.0 * hidden_size * (self.num_experts + self.shared_output_gate)
            return routed + shared + latent + (exact if convention == "exact" else 0.0)

        def activation_bytes(
            self, hidden_size: int, sequence_length: int, microbatch: int, element: int = 4, at: Coordinates = WHOLE
        ) -> float:
            """Without a capacity, and with an even load of the experts' ranks. Of a rank's own tokens: the router's
            scores, choice and weights, what the latent projection reads, and where each goes; of the tokens that reach
            its experts: input, weight, what the activation, the product with the gate and the weighing keep; of the
            whole sequence: the shared expert's. Once: the loads that the balancing losses read, and the losses; where
            each expert's tokens end in a grouped product."""
            width, wide, E = self.latent_size or hidden_size, max(element, 4), self.num_experts
            tokens = sequence_length * microbatch
            own = E * (2 * wide + 2) + (self.latent_size or 0) * element + 8 * self.top_k
            own += hidden_size * 4 if element < 4 else 0
            own += (E + 1) * wide if self.score == "sigmoid" and self.top_k > 1 else 0
            share = wide if self.score == "sigmoid" else 4
            balances = [rows for rows, factor in self.balanced_rows(microbatch) if factor]
            if balances:
                own += self.top_k * 8 + E * share + (wide if self.score == "sigmoid" else 0)
            own += (E + 1) * wide * bool(self.z_loss)
            once = sum(8 * E * rows + share for rows in balances) + wide * bool(self.z_loss)
            if self.kernel in ("auto", "grouped") and grouped_takes(
                element, width, self.intermediate_size // at.expert_tensor
            ):
                once += (3 if self.gated else 2) * E // at.expert * 4
            neurons = (4 if self.gated else 2) + self.weigh_inside
            each = width * (1 if self.weigh_inside else 2) + 1 + neurons * self.intermediate_size / at.expert_tensor
            arriving = tokens * self.top_k * at.expert_tensor / at.tensor
            kept = once + tokens / at.tensor * own + arriving * each * element
            if self.shared_size is not None:
                kept += tokens * (4 if self.gated else 2) * self.shared_size / at.tensor * element
                kept += tokens * (hidden_size + 1) * element * self.shared_output_gate
            return kept

        def balanced_rows(self, microbatch: int) -> list[tuple[int, float]]:
            """For each balancing loss the number of loads it counts per expert, and its coefficient."""
            return [(1, self.balance_loss), (microbatch, self.sequence_balance_loss)]

        def state_bytes(self, hidden_size: int, sequence_length: int, element: int = 2) -> int:
            return 0

        def check_device(self, cuda: bool) -> None:
            if self.kernel == "transformer_engine":
                grouped_transformer_engine.check(cuda)

    config: MoE.Config

    def __init__(self, config: MoE.Config, hidden_size: int, place: Placement) -> None:
        super().__init__(config, hidden_size, place)
        self.seen = torch.zeros(config.num_experts + 3, dtype=torch.float64, device=place.device)
        """Of the global batch so far: tokens that wanted each expert, tokens kept, entropy of the router, tokens."""

    def on_own_tokens(self, x_sBD: Tensor, context: MixerContext) -> Tensor:
        """The routed experts."""
        c = self.config
        logits_sBE = linear(x_sBD.to(self.router.dtype), self.router)
        routed = context.route(logits_sBE, c.rule, getattr(self, "selection_bias", None))
        if not context.repeats:
            self.observe(logits_sBE, routed)
        inner = x_sBD if c.latent_size is None else linear(x_sBD, self.latent_down)
        sent = context.dispatch(inner, routed, c.rule)
        weights = sent.weights if c.output_multiplier is None else sent.weights * c.output_multiplier
        outputs = experts(
            sent.tokens,
            sent.counts,
            weights,
            self.up,
            getattr(self, "gate", None),
            self.down,
            ACTIVATIONS[c.activation],
            weigh_inside=c.weigh_inside,
            kernel=c.kernel,
        )
        combined = sent.combine(outputs)
        return combined if c.latent_size is None else linear(combined, self.latent_up)

    def forward(self, x_SBD: Tensor, context: MixerContext) -> Tensor:
        """The shared expert."""
        c = self.config
        activate, up = ACTIVATIONS[c.activation], linear(x_SBD, self.shared_up)
        hidden = activate(linear(x_SBD, self.shared_gate)) * up if c.gated else activate(up)
        y_SBD = linear(hidden, self.shared_down, scale_out=c.output_multiplier)
        return y_SBD * linear(x_SBD, self.shared_output_gate).sigmoid() if c.shared_output_gate else y_SBD

    def observe(self, logits_sBE: Tensor, routed: Routed) -> None:
        """Counts what a training step's tokens chose."""
        if not torch.is_grad_enabled():
            return
        with torch.no_grad():
            log_shares = logits_sBE.log_softmax(-1)
            entropy = -(log_shares.exp() * log_shares).sum()
            kept, tokens = routed.chosen_TE.sum(), logits_sBE[..., 0].numel()
            self.seen[: self.config.num_experts] += routed.wanted_TE.sum(0)
            self.seen[self.config.num_experts :] += torch.stack([kept, entropy, kept.new_tensor(tokens)])

    def after_batch(self, total: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """Moves the selection bias against the load (Wang et al., 2024, algorithm 1), and tells the load of each expert
        relative to the mean, its greatest excess (MaxVio), the router's mean entropy, the share of dropped tokens."""
        load_E, (kept, entropy, tokens) = total(self.seen).split([self.config.num_experts, 3])
        self.seen = torch.zeros_like(self.seen)
        mean = load_E.mean()
        if self.config.selection_bias_rate is not None and self.router.requires_grad:
            self.selection_bias += self.config.selection_bias_rate * (mean - load_E).sign()
        relative_E = load_E / mean
        return {
            "load": relative_E,
            "max_violation": relative_E.max() - 1,
            "entropy": entropy / tokens,
            "dropped": 1 - kept / load_E.sum(),
        }

    def initial_state(self, batch: int) -> None:
        return None

    def step(self, x_BD: Tensor, state: None, context: MixerContext) -> tuple[Tensor, None]:
        return self(x_BD[None], context)[0], state
