"""What every mixer must show: each test that pytest finds here is one law."""

from eyas.layers.testing import Conformance


class TestGatedConv(Conformance):
    options = {"kind": "gated_conv", "channels": 12, "kernel_size": 3}
