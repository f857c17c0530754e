"""The norm against its definition."""

import mixers
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.mixer import Placement
from eyas.layers.norm import RMSNorm, rms_norm

widths = st.integers(1, 9)
seeds = st.integers(0, 999)


@given(width=widths, epsilon=st.sampled_from([1e-5, 0.1]), seed=seeds)
def test_rms_norm_equals_pytorchs_with_gradients(width, epsilon, seed):
    norm = RMSNorm(width, epsilon, Placement(dtype=torch.float64))
    with torch.no_grad():
        norm.weight.copy_(mixers.noise(width, seed=seed + 1))
    x = mixers.noise(4, 2, width, seed=seed).requires_grad_()
    mixers.assert_equal_results(norm(x), F.rms_norm(x, (width,), norm.weight, epsilon), norm, x, tolerance=1e-12)


@given(width=widths, seed=seeds)
def test_rms_norm_of_a_narrow_type_has_wide_statistics_and_is_rounded_before_the_weight(width, seed):
    x = mixers.noise(4, 2, width, seed=seed, dtype=torch.bfloat16)
    weight = mixers.noise(width, seed=seed + 1, dtype=torch.bfloat16)
    wide = x.float()
    expected = (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).bfloat16() * weight
    torch.testing.assert_close(rms_norm(x, weight, 1e-5), expected, rtol=2**-7, atol=0)
    assert rms_norm(1000 * x, weight, 1e-5).isfinite().all()
