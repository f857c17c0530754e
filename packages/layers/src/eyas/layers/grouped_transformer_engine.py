"""The experts' grouped product on a GPU by transformer-engine; the only file that imports transformer_engine."""
# N tokens, E experts, I input width, O output width

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from eyas.core.errors import ConfigError


def available() -> bool:
    """Whether transformer-engine is installed; does not import it."""
    return importlib.util.find_spec("transformer_engine") is not None


def check(cuda: bool) -> None:
    """Raises ConfigError where there is no GPU, or no transformer-engine."""
    if not cuda:
        raise ConfigError("kernel=transformer_engine needs a GPU, and there is none here; choose auto, grouped or loop")
    if not available():
        raise ConfigError(
            "kernel=transformer_engine needs transformer-engine; pip install 'eyas-layers[transformer-engine]', or "
            "choose auto, grouped or loop"
        )


def grouped_transformer_engine(x_NI: Tensor, counts: Sequence[int], weight_EOI: Tensor) -> Tensor:
    """Each expert's rows times its matrix, (N, O), by `GroupedLinear` of transformer-engine 2.2 or later: bfloat16,
    float16, or float32, which it multiplies as TF32."""
    check(x_NI.is_cuda)
    if x_NI.itemsize > 4:
        raise ConfigError(f"kernel=transformer_engine has no products in {x_NI.dtype}; use kernel=loop")
    E, O, I = weight_EOI.shape  # noqa: E741
    weights = {f"weight{expert}": weight for expert, weight in enumerate(weight_EOI.unbind(0))}
    y_NO: Tensor = torch.func.functional_call(_grouped_linear(E, I, O, x_NI.dtype), weights, (x_NI, list(counts)))
    return y_NO


@functools.cache
def _grouped_linear(experts: int, inputs: int, outputs: int, dtype: torch.dtype) -> nn.Module:
    """transformer-engine's module without storage for weights: each call brings its own."""
    engine = importlib.import_module("transformer_engine.pytorch")
    module: nn.Module = engine.GroupedLinear(experts, inputs, outputs, bias=False, params_dtype=dtype, device="meta")
    return module
