"""A block adds its branches to the residual stream, each output bias once."""
# S sequence, B batch, D hidden

import mixers
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.accounting import block_parameters
from eyas.core.mixer import Placement
from eyas.core.model import load_model
from eyas.core.rank_costs import RankShare, block_costs
from eyas.layers.block import Block
from eyas.layers.initial import initialise
from eyas.layers.norm import rms_norm

seeds = st.integers(0, 999)


@st.composite
def specs(draw):
    """Models of one block with one to three branches."""
    branches = draw(st.lists(mixers.anything(), min_size=1, max_size=3))
    layers = {f"layer{index}": options for index, options in enumerate(branches)}
    return load_model({"hidden_size": 12, "vocab_size": 9, "layers": layers, "pattern": ["+".join(layers)]})


def build(spec, seed=0, dtype=torch.float64):
    """The block, with no weight at zero or one."""
    block = Block(spec, spec.blocks[0], Placement(dtype=dtype))
    initialise(block, seed, 0.4)
    with torch.no_grad():
        for index, parameter in enumerate(block.parameters()):
            parameter.add_(0.2 * mixers.noise(*parameter.shape, seed=seed + index))
    return block


@given(spec=specs(), packed=st.booleans(), seed=seeds)
def test_a_block_is_the_residual_plus_the_sum_of_its_branches(spec, packed, seed):
    block, h = build(spec, seed), mixers.noise(9, 2, 12, seed=seed).requires_grad_()
    context = mixers.alone(mixers.documents(9, 2, seed) if packed else None)
    x = rms_norm(h, block.norm.weight, spec.norm_epsilon)
    expected = h
    for branch in block.mixers():
        expected = expected + branch(x, context) + bias(branch)
    mixers.assert_equal_results(block(h, context), expected, block, h, tolerance=1e-12)


def bias(branch):
    """A branch's output bias, which its output multiplier scales too."""
    scale = getattr(branch.config, "output_multiplier", None) or getattr(branch.config, "down_multiplier", None) or 1.0
    return scale * getattr(branch, "output_bias", torch.zeros(12, dtype=torch.float64))


@given(spec=specs(), seed=seeds)
def test_decoding_equals_the_forward_pass(spec, seed):
    block, h = build(spec, seed), mixers.noise(9, 2, 12, seed=seed)
    states, rows = block.initial_state(h.shape[1]), []
    for h_BD in h:
        row_SBD, states = block.further(h_BD[None], states, mixers.alone())
        rows.append(row_SBD)
    torch.testing.assert_close(torch.cat(rows), block(h, mixers.alone()), rtol=1e-12, atol=1e-12)
    together, _ = block.further(h, block.initial_state(h.shape[1]), mixers.alone())
    torch.testing.assert_close(together, block(h, mixers.alone()), rtol=1e-12, atol=1e-12)


@given(
    options=st.one_of(
        mixers.attention(num_heads=4, num_kv_heads=2),
        mixers.attention(num_heads=4, num_kv_heads=1),
        mixers.mamba2(num_heads=4, num_groups=2),
        mixers.mamba2(num_heads=4, num_groups=1, gated_norm=False),
        mixers.mla(num_heads=4),
        mixers.gated_delta_net(num_heads=4),
        mixers.linear_attention(num_heads=4, norm_per_head=True),
        mixers.mlp(),
    ),
    seed=seeds,
)
def test_the_ranks_partial_sums_add_up_to_the_whole_mixer(options, seed):
    x, context = mixers.noise(9, 2, 12, seed=seed), mixers.one_of_several()
    ranks = [mixers.build(options, seed=seed, tensor_rank=rank, tensor=2) for rank in range(2)]
    total = sum(rank(x, context) for rank in ranks)
    whole = mixers.build(options, seed=seed)
    torch.testing.assert_close(total, whole(x, mixers.alone()), rtol=1e-11, atol=1e-11)
    biases = [module.bias_after_sum() for module in (*ranks, whole)]
    assert all(found is None for found in biases) or all(torch.equal(found, biases[-1]) for found in biases)


@given(spec=specs(), batch=st.integers(1, 2), dtype=st.sampled_from([torch.bfloat16, torch.float32, torch.float64]))
def test_activation_bytes_are_those_kept_for_the_backward_pass(spec, batch, dtype):
    block = build(spec, dtype=dtype)
    h = mixers.noise(70, batch, 12, dtype=dtype).requires_grad_()
    known = [*block.parameters(), *mixers.rotary_tables(spec, 70, dtype)]
    kept = mixers.bytes_kept(lambda: block(h, mixers.alone()), known)
    (cost,) = block_costs(spec, RankShare(sequence_length=70, microbatch=batch, element=dtype.itemsize))
    assert cost.activation_bytes == kept
    assert cost.parameters == block_parameters(spec, spec.blocks[0])
    assert cost.parameters == sum(parameter.numel() for parameter in block.parameters())
