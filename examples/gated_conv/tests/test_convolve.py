"""What this mixer computes, against its definition."""

import torch
from eyas_gated_conv import convolve


def test_convolution_is_the_sum_over_the_taps():
    draw = torch.Generator().manual_seed(0)
    value_SBC, taps_CK = (torch.randn(*shape, dtype=torch.float64, generator=draw) for shape in ((7, 2, 4), (4, 3)))
    expected = sum(value_SBC[k : k + 5] * taps_CK[:, k] for k in range(3))
    torch.testing.assert_close(convolve(value_SBC, taps_CK), expected, rtol=1e-12, atol=1e-12)
