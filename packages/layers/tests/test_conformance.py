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


class TestLatentAttention(Conformance):
    options = mixers.mla()
    flops_by_convention = "causal attention counts as half the square; test_closed_forms.py counts the rest"


class TestMamba(Conformance):
    options = mixers.mamba1()
    flops_by_convention = "the scan counts as seven operations per state entry; test_closed_forms.py counts the rest"


class TestGatedDeltaNet(Conformance):
    options = mixers.gated_delta_net()
    flops_by_convention = "the rule counts as seven operations per state entry; test_closed_forms.py counts the rest"


class TestLinearAttention(Conformance):
    options = mixers.linear_attention()
    flops_by_convention = "the scan counts as five operations per state entry; test_closed_forms.py counts the rest"


class TestMixtureOfExperts(Conformance):
    options = mixers.moe(balance_loss=0.0, sequence_balance_loss=0.0, z_loss=0.0)
    """Auxiliary losses have gradients that no output shows; test_moe.py compares them with their definitions."""
