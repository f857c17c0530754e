"""The ledger of a transformer layer against the published rows (Korthikanti et al., 2022, table 2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.ledger import transformer_bytes, transformer_ledger

sizes = {
    "s": st.integers(1, 4096), "b": st.integers(1, 8), "h": st.integers(1, 9999), "a": st.integers(1, 128),
    "t": st.sampled_from([1, 2, 4, 8]),
}  # fmt: skip


@given(**sizes)
def test_every_row_of_the_table_is_the_sum_of_its_tensors(s, b, h, a, t):
    def kept(**options):
        return transformer_bytes(s, b, h, a, tensor=t, **options)

    unit, scores = s * b * h, 5 * a * s / h
    rows = {
        transformer_bytes(s, b, h, a): unit * (34 + scores),
        kept(): unit * (10 + 24 / t + scores / t),
        kept(sequence=True): unit / t * (34 + scores),
        kept(recompute="selective"): unit * (10 + 24 / t),
        kept(sequence=True, recompute="selective"): unit * 34 / t,
        kept(sequence=True, recompute="full"): unit * 2,
    }
    for found, published in rows.items():
        assert found == pytest.approx(published, rel=1e-12)


def test_the_parts_are_those_of_the_paper():
    parts = {"attention": 0.0, "mlp": 0.0, "norms": 0.0}
    for entry in transformer_ledger(heads=3, sequence_length=8, hidden_size=6):
        parts[entry.part] += entry.bytes
    assert parts == {"attention": 11 + 5 * 3 * 8 / 6, "mlp": 19, "norms": 4}


def test_the_share_of_attentions_core_is_the_papers():
    """5 a s / h of GPT-3 (175B) and of MT-NLG (530B), in their section 4.1."""
    assert transformer_bytes(2048, 1, 12288, 96) / (2048 * 12288) == 34 + 80
    assert transformer_bytes(2048, 1, 20480, 128) / (2048 * 20480) == 34 + 64
