"""What a mixer says that it costs, against what it does cost."""
# S sequence, B batch

import mixers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from eyas.core.errors import LayoutError
from eyas.core.mixer_config import FlopConvention
from eyas.core.model import load_layer
from eyas.core.weights import Coordinates
from eyas.layers import gated_delta_net, linear_attention, mamba1, mamba2, mla

DTYPES = st.sampled_from([torch.bfloat16, torch.float32, torch.float64])
EXACT: FlopConvention = "exact"


def fitting(options, sizes=(1, 2, 3, 4)):
    """Numbers of ranks that the mixer can be split over."""
    config = load_layer(options, "layer")
    return [size for size in sizes if splits(config, size)]


def splits(config, tensor):
    try:
        config.check_split(mixers.HIDDEN, Coordinates.of(tensor))
    except LayoutError:
        return False
    return True


@st.composite
def split(draw, **options):
    """Options of a mixer and a number of ranks that it can be split over."""
    drawn = draw(mixers.anything()) | options
    return drawn, draw(st.sampled_from(fitting(drawn)))


@given(split())
def test_every_ranks_part_of_a_weight_is_its_slice_of_the_whole(drawn):
    options, tensor = drawn
    whole = mixers.build(options)
    for rank in range(tensor):
        part = mixers.build(options, tensor_rank=rank, tensor=tensor)
        for name, parameter in part.named_parameters():
            expected = whole.get_parameter(name)[part.declared[name].local_slices(part.place)]
            assert torch.equal(parameter, expected)


@given(options=mixers.attention(sinks=False, sink_tokens=None), length=st.integers(1, 20))
def test_flops_of_attention_count_half_of_each_tokens_own_key(options, length):
    """PyTorch counts the whole square. Causal attention needs the pairs on and below its diagonal; the convention of
    half the square counts the diagonal itself (and with a window also its lower edge) by half."""
    module = mixers.build(options)
    window = min(module.config.window or length, length)
    pairs = sum(min(t + 1, window) for t in range(length))
    per_pair = 4 * module.config.num_heads * module.config.head_dim
    with sdpa_kernel(SDPBackend.MATH):
        total = counted(module, length)
    expected = total / 2 - per_pair * (length**2 - pairs + window / 2)
    assert module.config.flops(mixers.HIDDEN, length) * length == pytest.approx(expected, rel=1e-12)


@given(window=st.integers(1, 30), sinks=st.integers(0, 30), length=st.integers(40, 80))
def test_flops_of_attention_count_what_is_seen_beyond_the_window(window, sinks, length):
    options = {"kind": "attention", "num_heads": 2, "head_dim": 4, "window": window, "sink_tokens": sinks}
    config = mixers.build(options).config
    pairs = sum(min(t + 1, window) + min(sinks, max(0, t + 1 - window)) for t in range(length))
    products = (config.flops(mixers.HIDDEN, length) - 8 * mixers.HIDDEN * 8) * length / (4 * 8)
    assert products == pytest.approx(pairs, abs=length)


@given(
    options=st.one_of(mixers.gated_delta_net(), mixers.linear_attention(), mixers.mamba1(), mixers.mamba2()),
    length=st.integers(1, 9),
)
def test_flops_of_a_recurrence_are_the_projections_and_a_number_per_state_entry(options, length):
    """The scan is counted by convention, whichever kernel runs it; the short convolution is not counted."""
    module = mixers.build(options)
    c = module.config
    first, third = lambda x, *operands, **options: (x, None), lambda q, k, v, *operands, **options: (v, None)
    file, name, replacement, scan = {
        "gated_delta_net": lambda: (gated_delta_net, "gated_delta_rule", third, 7 * c.inner_size * c.key_head_dim),
        "linear_attention": lambda: (linear_attention, "ssd", first, 5 * c.inner_size * c.head_dim),
        "mamba1": lambda: (mamba1, "selective_scan", first, 7 * c.inner_size * c.state_size),
        "mamba2": lambda: (mamba2, "ssd", first, 7 * c.inner_size * c.state_size),
    }[c.kind]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, name, replacement)
        projections = counted(module, length)
    assert (c.flops(mixers.HIDDEN, length, EXACT) - scan) * 2 * length == projections


@given(options=mixers.mla(), length=st.integers(1, 9))
def test_flops_of_latent_attention_are_the_projections_and_half_the_square(options, length):
    module = mixers.build(options)
    c = module.config
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mla, "attend", lambda q, k, v, mask, scale: v)
        projections = counted(module, length)
    square = length * c.num_heads * (c.qk_head_dim + c.v_head_dim)
    assert (c.flops(mixers.HIDDEN, length, EXACT) - square) * 2 * length == projections


def test_megatrons_convention_takes_twice_the_hidden_size_for_mamba2s_width():
    options = {"kind": "mamba2", "num_heads": 4, "head_dim": 5, "state_size": 3}
    same = {**options, "head_dim": 2 * mixers.HIDDEN // 4}
    exact = mixers.build(same).config.flops(mixers.HIDDEN, 64, "exact")
    assert mixers.build(options).config.flops(mixers.HIDDEN, 64, "megatron") == exact


def counted(module, length):
    """FLOPs of a forward pass over two sequences."""
    with FlopCounterMode(display=False) as counter:
        module(mixers.noise(length, 2, mixers.HIDDEN), mixers.alone())
    return counter.get_total_flops()


def test_more_ranks_than_groups_hold_a_group_several_times():
    options = {"kind": "mamba2", "num_heads": 4, "head_dim": 3, "state_size": 2, "num_groups": 1}
    config = mixers.build(options).config
    shared = 2 * config.state_size * (mixers.HIDDEN + config.conv_kernel + 1)
    assert 4 * config.parameters(mixers.HIDDEN, Coordinates.of(4)) == config.parameters(mixers.HIDDEN) + 3 * shared
