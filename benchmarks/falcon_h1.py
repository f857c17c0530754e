"""The same small Falcon-H1 in Hugging Face's code and in ours, for the benchmarks."""

from __future__ import annotations

from typing import Any

import torch
from transformers import FalconH1Config, FalconH1ForCausalLM
from transformers.utils import logging as their_log

from eyas.core.model import load_model
from eyas.layers.hf_falcon_h1 import FALCON_H1
from eyas.layers.hf_options import from_json, model_data
from eyas.layers.hf_tensors import our_tensors
from eyas.layers.model import HybridLM

their_log.set_verbosity_error()  # it warns of its torch code, which is what we compare with

SIZES: dict[str, dict[str, Any]] = {
    "tiny": {  # conf/model/falcon_h1_tiny.yaml
        "hidden_size": 256, "num_hidden_layers": 6, "intermediate_size": 768, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 64, "mamba_d_ssm": 512, "mamba_n_heads": 8, "mamba_d_head": 64,
        "mamba_d_state": 64, "mamba_rms_norm": True,
    },
    "small": {
        "hidden_size": 512, "num_hidden_layers": 8, "intermediate_size": 1536, "num_attention_heads": 8,
        "num_key_value_heads": 2, "head_dim": 64, "mamba_d_ssm": 768, "mamba_n_heads": 12, "mamba_d_head": 64,
        "mamba_d_state": 128, "mamba_rms_norm": True,
    },
}  # fmt: skip
FALCON_H1_CHUNK = 256
BEST_CHUNK = 64
"""The chunk that Hugging Face's torch code is fastest with on a CPU."""


def their_model(size: str, chunk: int, *, steep: bool = False, **options: Any) -> FalconH1ForCausalLM:
    """Hugging Face's model, the same weights at every call. Decays are drawn as Mamba-2's authors do, or if `steep`
    left as Hugging Face has them, with states that die within a few tokens."""
    torch.manual_seed(0)
    config = FalconH1Config(
        **{**SIZES[size], "vocab_size": 4096, "mamba_n_groups": 1, "mamba_chunk_size": chunk, **options},
        ssm_multipliers=[0.9, 0.8, 1.1, 0.7, 1.2], key_multiplier=0.5, lm_head_multiplier=0.5, embedding_multiplier=3.0,
    )  # fmt: skip
    model = FalconH1ForCausalLM(config).train()
    if not steep:
        with torch.no_grad():
            for layer in model.model.layers:
                layer.mamba.A_log.uniform_(1, 16).log_()
                time_step = layer.mamba.dt_bias.uniform_(-6.9, -2.3).exp_()
                time_step.copy_(torch.expm1(time_step).log())
    return model


def our_model(theirs: FalconH1ForCausalLM) -> HybridLM:
    """Ours with the same weights."""
    spec = load_model(model_data(FALCON_H1, from_json(theirs.config.to_json_string())))
    model = HybridLM(spec)
    model.load_state_dict(our_tensors(FALCON_H1, spec, theirs.state_dict()))
    return model
