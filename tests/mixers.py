"""Mixers that tests draw: options, modules with weights away from their start, and contexts of one process."""

import itertools
import math
from types import SimpleNamespace

import torch
from hypothesis import strategies as st

from eyas.core.mixer import Placement
from eyas.core.model import load_layer
from eyas.core.registry import mixer
from eyas.layers.initial import initialise
from eyas.layers.rotary import rotation
from eyas.parallel.context import Context

HIDDEN = 12
scales = st.sampled_from([None, 0.5, 1.75])


@st.composite
def attention(draw, **fixed):
    """Options of attention, grouped or not, with any of its features."""
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    head_dim, rope_base = draw(st.sampled_from([2, 4, 6])), draw(st.sampled_from([None, 10.0, 1e11]))
    drawn = {
        "kind": "attention",
        "num_heads": kv_heads * draw(st.sampled_from([1, 2, 3])),
        "num_kv_heads": kv_heads,
        "head_dim": head_dim,
        "rope_base": rope_base,
        "rotary_dim": None if rope_base is None else draw(st.sampled_from([None, 2, head_dim])),
        "window": draw(st.sampled_from([None, 1, 3, 8])),
        "qk_norm": draw(st.booleans()),
        "softmax_scale": draw(st.sampled_from([None, 0.3])),
        "sinks": draw(st.booleans()),
        "qkv_bias": draw(st.booleans()),
        "output_bias": draw(st.booleans()),
        "input_multiplier": draw(scales),
        "key_multiplier": draw(scales),
        "output_multiplier": draw(scales),
    }
    return drawn | fixed


@st.composite
def mla(draw, **fixed):
    """Options of multi-head latent attention, all of them."""
    drawn = {
        "kind": "mla",
        "num_heads": draw(st.sampled_from([1, 2, 4])),
        "kv_lora_rank": draw(st.sampled_from([1, 5, 8])),
        "q_lora_rank": draw(st.sampled_from([None, 1, 6])),
        "qk_nope_head_dim": draw(st.sampled_from([1, 2, 4])),
        "qk_rope_head_dim": draw(st.sampled_from([2, 4])),
        "v_head_dim": draw(st.sampled_from([3, 4, 6, 9])),
        "rope_base": draw(st.sampled_from([10.0, 1e4])),
        "rope_interleave": draw(st.booleans()),
        "softmax_scale": draw(st.sampled_from([None, 0.3])),
        "down_bias": draw(st.booleans()),
        "output_bias": draw(st.booleans()),
    }
    return drawn | fixed


@st.composite
def mamba2(draw, **fixed):
    """Options of Mamba-2, all of them."""
    groups = draw(st.sampled_from([1, 2]))
    drawn = {
        "kind": "mamba2",
        "num_heads": groups * draw(st.sampled_from([1, 2, 4])),
        "head_dim": draw(st.sampled_from([1, 3, 4])),
        "state_size": draw(st.sampled_from([1, 4, 5])),
        "num_groups": groups,
        "conv_kernel": draw(st.sampled_from([1, 2, 4])),
        "conv_bias": draw(st.booleans()),
        "gated_norm": draw(st.booleans()),
        "norm_before_gate": draw(st.booleans()),
        "projection_bias": draw(st.booleans()),
        "output_bias": draw(st.booleans()),
        "time_step_limit": draw(st.sampled_from([[0.0, math.inf], [0.2, 0.9]])),
        "time_step_min": 0.1,
        "time_step_max": 2.0,
        "chunk_size": draw(st.sampled_from([None, 4])),
        "input_multiplier": draw(scales),
        "multipliers": draw(st.sampled_from([None, [0.5, 1.5, 0.75, 1.25, 2.0]])),
        "output_multiplier": draw(scales),
    }
    return drawn | fixed


@st.composite
def mlp(draw, **fixed):
    """Options of the feed-forward layer."""
    drawn = {
        "kind": "mlp",
        "intermediate_size": draw(st.sampled_from([4, 12, 20])),
        "gated": draw(st.booleans()),
        "activation": draw(st.sampled_from(["silu", "gelu", "squared_relu"])),
        "bias": draw(st.booleans()),
        "gate_multiplier": draw(scales),
        "down_multiplier": draw(scales),
    }
    return drawn | fixed


def anything():
    """Options of any mixer."""
    return st.one_of(attention(), mla(), mamba2(), mlp())


def build(options, *, seed=0, dtype=torch.float64, tensor_rank=0, tensor=1, hidden_size=HIDDEN):
    """A mixer, or one rank's part of it, with weights that depend on the seed alone; none is zero, one or tiny."""
    config = load_layer(options, "layer")
    place = Placement(tensor_rank, tensor, dtype)
    module = mixer(config.kind).mixer(config, hidden_size, place)
    initialise(module, seed, 0.4, tensor_rank, tensor)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            weight = parameter.declared
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed + len(name)))
            parameter.add_(0.2 * noise[weight.local_slices(tensor_rank, tensor)])
    return module


def alone(documents_SB=None):
    """What a mixer is told where one process holds everything."""
    return Context(documents_SB=documents_SB)


def one_of_several():
    """What a mixer is told on a rank whose norm groups are its own."""
    return SimpleNamespace(documents_SB=None, sum_over_copies=lambda partial, weight: partial)


def noise(*shape, seed=0, dtype=torch.float64):
    """Reproducible normal numbers."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def documents(length, batch, seed=0, share=0.2):
    """Document numbers (S, B) that rise at about `share` of the tokens."""
    starts = torch.rand(length, batch, generator=torch.Generator().manual_seed(seed)) < share
    return starts.long().cumsum(0)


def bytes_kept(run, known):
    """Bytes that `run` keeps for a backward pass, each piece of memory counted once, what is `known` not at all."""
    seen, kept = {tensor.untyped_storage().data_ptr() for tensor in known}, []

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in seen:
            seen.add(tensor.untyped_storage().data_ptr())
            kept.append(tensor.untyped_storage())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()
    assert result.requires_grad
    return sum(storage.nbytes() for storage in kept)


def rotary_tables(spec, length, dtype):
    """What all attention layers of a model share."""
    wide = torch.promote_types(dtype, torch.float32)
    return [
        table
        for layer in spec.layers.values()
        if getattr(layer, "rope_base", None) is not None
        for table in rotation(0, length, layer.rotated, layer.rope_base, wide, torch.device("cpu"))
    ]


def gradients(loss, module, *inputs):
    """Gradients of a loss by parameter name, and of the inputs by their number."""
    names = [*(name for name, _ in module.named_parameters()), *map(str, range(len(inputs)))]
    found = torch.autograd.grad(loss, [*module.parameters(), *inputs], allow_unused=True)
    return {name: gradient for name, gradient in zip(names, found, strict=True) if gradient is not None}


def assert_equal_results(actual, expected, module, x, *, weight_seed=99, tolerance=1e-10):
    """Two results (S, B, D) are equal, and so are all gradients of a random sum of each."""
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    weight = noise(*expected.shape, seed=weight_seed)
    got, wanted = (gradients((result * weight).sum(), module, x) for result in (actual, expected))
    assert got.keys() == wanted.keys()
    for name, gradient in wanted.items():
        scale = max(1.0, gradient.abs().max().item())
        torch.testing.assert_close(
            got[name], gradient, rtol=0, atol=tolerance * scale, msg=lambda m, n=name: f"{n}: {m}"
        )


def decode(module, x_SBD):
    """The module's output token by token."""
    state, ys = module.initial_state(x_SBD.shape[1]), []
    for x_BD in x_SBD:
        y_BD, state = module.step(x_BD, state, alone())
        ys.append(y_BD)
    return torch.stack(ys), state


def rows_of_documents(documents_SB):
    """Each document as (row, slice of the sequence)."""
    for row in range(documents_SB.shape[1]):
        numbers = documents_SB[:, row].tolist()
        edges = [0, *(t for t in range(1, len(numbers)) if numbers[t] != numbers[t - 1]), len(numbers)]
        yield from ((row, slice(first, last)) for first, last in itertools.pairwise(edges))


def one_by_one(module, x_SBD, documents_SB):
    """The module's output with every document computed by itself."""
    y_SBD = torch.empty_like(x_SBD)
    for row, part in rows_of_documents(documents_SB):
        y_SBD[part, row] = module(x_SBD[part, row, None], alone())[:, 0]
    return y_SBD


def assert_documents_do_not_meet(module, x_SBD, documents_SB):
    """Every document's outputs have a gradient of exactly zero for all other documents' tokens."""
    x_SBD = x_SBD.detach().requires_grad_()
    y_SBD = module(x_SBD, alone(documents_SB))
    for row, part in rows_of_documents(documents_SB):
        (gradient,) = torch.autograd.grad(y_SBD[part, row].sum(), x_SBD, retain_graph=True)
        assert gradient[part, row].abs().sum() > 0
        gradient[part, row] = 0.0
        assert not gradient.any()


def tensors(state):
    """All tensors in nested tuples, lists and dicts."""
    if isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, (tuple, list, dict)):
        for part in state.values() if isinstance(state, dict) else state:
            yield from tensors(part)
