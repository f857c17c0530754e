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
from eyas.layers import mamba2
from eyas.layers.rotary import rotation

DTYPES = st.sampled_from([torch.bfloat16, torch.float32, torch.float64])
EXACT: FlopConvention = "exact"


def fitting(options, sizes=(1, 2, 3, 4)):
    """Numbers of ranks that the mixer can be split over."""
    config = load_layer(options, "layer")
    return [size for size in sizes if splits(config, size)]


def splits(config, tensor):
    try:
        config.check_tensor(mixers.HIDDEN, tensor)
    except LayoutError:
        return False
    return True


@st.composite
def split(draw, **options):
    """Options of a mixer and a number of ranks that it can be split over."""
    drawn = draw(mixers.anything()) | options
    return drawn, draw(st.sampled_from(fitting(drawn)))


@given(split())
def test_parameters_are_those_of_every_ranks_module(drawn):
    options, tensor = drawn
    for rank in range(tensor):
        module = mixers.build(options, tensor_rank=rank, tensor=tensor)
        held = sum(parameter.numel() for parameter in module.parameters())
        assert module.config.parameters(mixers.HIDDEN, tensor) == held


@given(split())
def test_every_ranks_part_of_a_weight_is_its_slice_of_the_whole(drawn):
    options, tensor = drawn
    whole = mixers.build(options)
    for rank in range(tensor):
        part = mixers.build(options, tensor_rank=rank, tensor=tensor)
        for name, parameter in part.named_parameters():
            expected = whole.get_parameter(name)[part.declared[name].local_slices(rank, tensor)]
            assert torch.equal(parameter, expected)


@given(options=mixers.anything(), length=st.integers(1, 12), batch=st.integers(1, 3), dtype=DTYPES)
def test_state_bytes_are_those_of_the_decoding_state(options, length, batch, dtype):
    module = mixers.build(options, dtype=dtype)
    _, state = mixers.decode(module, mixers.noise(length, batch, mixers.HIDDEN, dtype=dtype))
    held = sum(tensor.numel() * tensor.element_size() for tensor in mixers.tensors(state))
    assert held == batch * module.config.state_bytes(mixers.HIDDEN, length, dtype.itemsize)


@given(drawn=split(), batch=st.integers(1, 3), length=st.sampled_from([70, 96]), dtype=DTYPES)
def test_activation_bytes_are_those_kept_for_the_backward_pass(drawn, batch, length, dtype):
    options, tensor = drawn
    module = mixers.build(options, dtype=dtype, tensor=tensor)
    x = mixers.noise(length, batch, mixers.HIDDEN, dtype=dtype).requires_grad_()
    context = mixers.one_of_several()
    known = [x, *module.parameters(), *rotary_table(module.config, length, dtype)]
    kept = mixers.bytes_kept(lambda: module(x, context), known)
    assert module.config.activation_bytes(mixers.HIDDEN, length, batch, dtype.itemsize, tensor) == kept


def rotary_table(config, length, dtype):
    """What all attention layers of a model share."""
    base = getattr(config, "rope_base", None)
    wide = torch.promote_types(dtype, torch.float32)
    return [] if base is None else rotation(0, length, config.rotated, base, wide, torch.device("cpu"))


@given(options=mixers.mlp(), length=st.integers(1, 9))
def test_flops_of_the_feed_forward_layer_are_those_counted(options, length):
    module = mixers.build(options)
    assert module.config.flops(mixers.HIDDEN, length) * 2 * length == counted(module, length)


@given(options=mixers.attention(sinks=False), length=st.integers(1, 20))
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


@given(options=mixers.mamba2(), length=st.integers(1, 9))
def test_flops_of_mamba2_are_the_projections_and_seven_per_state_entry(options, length):
    """The scan is counted by convention, whichever kernel runs it; the short convolution is not counted."""
    module = mixers.build(options)
    scan = 7 * module.config.inner_size * module.config.state_size
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mamba2, "ssd", lambda x, *operands, **options: (x, None))
        projections = counted(module, length)
    assert (module.config.flops(mixers.HIDDEN, length, EXACT) - scan) * 2 * length == projections


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
    assert 4 * config.parameters(mixers.HIDDEN, 4) == config.parameters(mixers.HIDDEN) + 3 * shared
