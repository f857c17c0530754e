"""One pipeline stage of a model, or all of it, as Megatron-Core's schedules expect it; and a rank's stages together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from eyas.parallel.losses import Losses
from eyas.parallel.megatron import ModelType, TransformerConfig


class StageModule(nn.Module):
    """Wraps a model whose forward takes a microbatch and `hidden_sBD`; adds the names that schedules look for."""

    model_type = ModelType.encoder_or_decoder

    def __init__(self, model: nn.Module, config: TransformerConfig, *, first: bool, last: bool, tied: bool) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.pre_process = first
        self.post_process = last
        self.share_embeddings_and_output_weights = tied
        self.received: Tensor | None = None

    def set_input_tensor(self, received: list[Tensor | None]) -> None:
        """Takes the hidden states (s, B, D) that the previous stage sent."""
        self.received = received[0]

    def shared_embedding_or_output_weight(self) -> Tensor:
        """The tied weight, whose gradients the first and the last stage add up."""
        return self.model.get_parameter("embedding.weight")

    def forward(self, batch: Mapping[str, Tensor], graded: bool = False) -> Tensor | Losses:
        """batch: tokens_BS, labels_BS and, for packed sequences, documents_BS. `graded` asks for hits."""
        arguments: dict[str, Any] = {f"{name}_BS": tensor for name, tensor in batch.items()}
        if graded:
            arguments["graded"] = True
        return self.model(**arguments, hidden_sBD=self.received)


def joined(stages: Sequence[nn.Module]) -> nn.Module:
    """A module that holds the weights of all of a rank's stages, for what does not ask which stage a weight is of.
    Names are global, so containers of one name are joined and no weight's name is there twice."""
    if len(stages) == 1:
        return stages[0]
    together = nn.Module()
    for stage in stages:
        for name, parameter in stage.named_parameters(recurse=False):
            assert not hasattr(together, name), f"two stages have a weight {name}"
            together.register_parameter(name, parameter)
        for name, buffer in stage.named_buffers(recurse=False):
            together.register_buffer(name, buffer)
    children: dict[str, list[nn.Module]] = {}
    for stage in stages:
        for name, child in stage.named_children():
            children.setdefault(name, []).append(child)
    for name, alike in children.items():
        together.add_module(name, joined(alike))
    return together
