"""Any way to cut a model into pipeline stages computes what one process computes."""

import pytest
from models import falcon_h1

from eyas.layers.testing import assert_layout_changes_nothing
from eyas.parallel.layout import Layout


@pytest.mark.parametrize("tied", [False, True])
def test_interleaved(tied):
    assert_layout_changes_nothing(falcon_h1(tied=tied), Layout(pipeline=2, virtual_pipeline=2))
