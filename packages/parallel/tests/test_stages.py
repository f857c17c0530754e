from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.arrangement import allowed_cuts, check_stages
from eyas.core.errors import LayoutError
from eyas.core.model import ModelSpec, load_model
from eyas.parallel.layout import Layout
from eyas.parallel.stages import stages_of

FFN = {"kind": "mlp", "intermediate_size": 8}
ATTENTION = {"kind": "attention", "num_heads": 1, "num_kv_heads": 1, "head_dim": 4}


def model(pattern: list[str], **changes: object) -> ModelSpec:
    layers = {"ffn": FFN, "wide": FFN | {"intermediate_size": 80}, "broad": ATTENTION}
    return load_model({"hidden_size": 8, "vocab_size": 16, "layers": layers, "pattern": pattern} | changes)


def stack(blocks: int, cuts: tuple[int, ...] = ()) -> ModelSpec:
    """Blocks that are alike, with a `|` before some."""
    return model([item for index in range(blocks) for item in (["|"] if index in cuts else []) + ["ffn"]])


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """Layouts of up to twelve stages, interleaved or not."""
    pipeline = draw(st.integers(1, 6))
    return Layout(pipeline=pipeline, virtual_pipeline=draw(st.integers(1, 2)) if pipeline > 1 else 1)


@given(layouts(), st.integers(0, 30))
def test_stages_tile_the_blocks_as_evenly_as_possible(layout: Layout, more: int) -> None:
    blocks = layout.stage_count + more
    ranges = stages_of(stack(blocks), layout, 16)
    assert list(chain(*ranges)) == list(range(blocks))
    assert len(ranges) == layout.stage_count
    lengths = [len(stage) for stage in ranges]
    assert max(lengths) - min(lengths) <= 1
    assert lengths == sorted(lengths, reverse=True)


@given(layouts(), st.data())
def test_stages_begin_at_the_cuts_of_the_pattern_or_of_the_layout(layout: Layout, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 5), min_size=layout.stage_count, max_size=layout.stage_count))
    starts = [sum(lengths[:stage]) for stage in range(len(lengths))]
    marked = stages_of(stack(sum(lengths), tuple(starts[1:])), layout, 16)
    assert [stage.start for stage in marked] == starts
    if layout.stage_count > 1:
        listed = Layout(pipeline=layout.pipeline, virtual_pipeline=layout.virtual_pipeline, stages=tuple(lengths))
        assert stages_of(stack(sum(lengths)), listed, 16) == marked


def test_cuts_mean_nothing_to_a_single_stage() -> None:
    assert stages_of(stack(4, (1, 3)), Layout(), 16) == [range(4)]


REFUSED = {
    "more stages than blocks": (stack(3), Layout(pipeline=4), "layout.pipeline=4 stages cannot share 3 blocks"),
    "more interleaved stages than blocks": (
        stack(3), Layout(pipeline=2, virtual_pipeline=2),
        "layout.pipeline=2 x layout.virtual_pipeline=2 = 4 stages cannot share 3 blocks; .* 3 stages or fewer",
    ),
    "other cuts than stages": (
        stack(4, (1,)), Layout(pipeline=3),
        "1 pipeline cuts make 2 stages, but layout.pipeline=3 stages .* 2 times .model.repeat repeats cuts too",
    ),
    "a list that leaves blocks out": (
        stack(6), Layout(pipeline=2, stages=(2, 3)), r"layout.stages=\[2, 3\] divides 5 blocks, but the model has 6",
    ),
    "a list for other stages": (
        stack(6), Layout(pipeline=2, stages=(1, 3, 2)), r"has 3 numbers, but layout.pipeline=2 stages .* give 2",
    ),
    "a list for one stage": (
        stack(6), Layout(stages=(6,)), r"layout.stages=\[6\] divides .* layout.pipeline=1; .* leave layout.stages",
    ),
    "a list beside cuts": (
        stack(4, (1,)), Layout(pipeline=2, stages=(2, 2)), r"layout.stages=\[2, 2\] and the 1 cuts .* leave one out",
    ),
    "balance beside cuts": (
        stack(4, (1,)), Layout(pipeline=2, stages="auto"), r"layout.stages=auto and the 1 cuts .* leave one out",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_division_that_is_not_the_models_is_refused(case: str) -> None:
    spec, layout, message = REFUSED[case]
    with pytest.raises(LayoutError, match=message):
        stages_of(spec, layout, 16)


def test_balance_counts_the_head_and_the_tail_with_the_last_stage() -> None:
    two = Layout(pipeline=2, stages="auto")
    assert stages_of(model(["ffn"] * 8, vocab_size=32), two, 16) == [range(5), range(5, 8)]
    assert stages_of(model(["ffn"] * 8, vocab_size=160), two, 16) == [range(7), range(7, 8)]
    assert stages_of(model(["ffn"] * 8 + ["/", "wide"]), two, 16) == [range(7), range(7, 8)]
    assert stages_of(model(["wide"] + ["ffn"] * 7), two, 16) == [range(1), range(1, 8)]


SHARED = {
    "attend": {"layers": "ffn", "shared": True},
    "begin": {"layers": "broad", "reads": "stream_and_embedding"},
    "speak": {"layers": "ffn", "writes": "aside"},
    "hear": {"layers": "ffn", "reads": "aside"},
}
ITEMS = st.sampled_from([["ffn"], ["attend"], ["begin"], ["speak", "hear"]])


@given(st.lists(ITEMS, min_size=1, max_size=6).map(lambda items: list(chain(*items))), st.data())
def test_stages_are_allowed_where_each_of_their_cuts_is(pattern: list[str], data: st.DataObject) -> None:
    spec = model(pattern, blocks=SHARED)
    blocks = spec.blocks
    cuts = sorted(data.draw(st.sets(st.integers(1, len(blocks) - 1)))) if len(blocks) > 1 else []
    edges = [0, *cuts, len(blocks)]
    stages = [range(first, end) for first, end in pairwise(edges)]
    if set(cuts) <= set(allowed_cuts(blocks, spec.layers)):
        check_stages(blocks, stages, spec.layers)
        return
    with pytest.raises(LayoutError, match=f"{len(stages)} pipeline stages: "):
        check_stages(blocks, stages, spec.layers)


def test_balance_cuts_only_where_the_blocks_allow_it() -> None:
    spec = model(["attend", "ffn", "ffn", "attend", "ffn", "ffn"], blocks=SHARED)
    assert stages_of(spec, Layout(pipeline=2, stages="auto"), 16) == [range(4), range(4, 6)]
    with pytest.raises(
        LayoutError, match="layout.pipeline=4 stages need 3 cuts, but the blocks can be cut in 2 places"
    ):
        stages_of(spec, Layout(pipeline=4, stages="auto"), 16)
