"""The models that a Falcon-H1 is compared with have as many parameters."""

import pytest

from eyas.core.accounting import parameters
from eyas.experiments.catalogue import models


@pytest.mark.parametrize("name", ["transformer_tiny", "mamba2_tiny"])
def test_a_comparison_model_has_as_many_parameters(name):
    table = models()
    assert parameters(table[name]) == pytest.approx(parameters(table["falcon_h1_tiny"]), rel=1e-3)
