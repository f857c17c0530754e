import pytest

from eyas.core.errors import LayoutError
from eyas.core.model import ModelSpec, load_model
from eyas.parallel.fits import check_fits
from eyas.parallel.layout import Layout

LAYERS = {
    "ffn": {"kind": "mlp", "intermediate_size": 8},
    "attn": {"kind": "attention", "num_heads": 2, "head_dim": 4},
    "moe": {"kind": "moe", "num_experts": 4, "top_k": 2, "intermediate_size": 4},
}


def model(*pattern: str) -> ModelSpec:
    return load_model({"hidden_size": 8, "vocab_size": 16, "layers": LAYERS, "pattern": list(pattern)})


def test_a_layer_that_stands_nowhere_asks_nothing_and_uses_nothing() -> None:
    check_fits(model("attn", "ffn"), Layout(tensor=2), 16)
    with pytest.raises(LayoutError, match="layout.expert=2 is about experts, and the model has none"):
        check_fits(model("attn", "ffn"), Layout(data=2, expert=2), 16)
    check_fits(model("attn", "moe"), Layout(data=2, expert=2), 16)


def test_layers_of_the_tail_count() -> None:
    check_fits(model("ffn", "/", "moe"), Layout(data=2, expert=2), 16)
    with pytest.raises(LayoutError, match=r"model.layers.attn: attention.num_heads=2 cannot be split over layout.te"):
        check_fits(model("ffn", "/", "attn"), Layout(tensor=4), 16)


def test_every_layer_that_exchanges_heads_must_be_able_to() -> None:
    layout = Layout(context=2, context_exchange="alltoall")
    check_fits(model("attn", "ffn"), layout, 16)
    with pytest.raises(LayoutError, match="exchanges heads, but no layer of the model does that"):
        check_fits(model("ffn"), layout, 16)
    with pytest.raises(
        LayoutError, match="model.layers.attn: attention.num_heads=2 leaves 2 to each .* layout.context=4 ranks"
    ):
        check_fits(model("attn"), Layout(context=4, context_exchange="alltoall"), 16)


def test_sequences_must_split() -> None:
    with pytest.raises(LayoutError, match="sequence length 14 cannot be split over the 4 pieces of layout.context=2"):
        check_fits(model("attn"), Layout(context=2), 14)
