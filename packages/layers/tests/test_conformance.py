"""Every registered mixer of ours through the conformance kit."""

import mixers

from eyas.layers.testing import Conformance


class TestAttention(Conformance):
    options = mixers.attention()
    flops_by_convention = "causal attention counts as half the square; test_closed_forms.py counts the rest"


class TestMamba2(Conformance):
    options = mixers.mamba2()
    flops_by_convention = "the scan counts as seven operations per state entry; test_closed_forms.py counts the rest"


class TestMLP(Conformance):
    options = mixers.mlp()
