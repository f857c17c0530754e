"""Any layout computes what one process computes."""

from dataclasses import replace
from math import gcd

import pytest
from drawn import ON_WORKERS
from hypothesis import assume, given
from hypothesis import strategies as st
from models import MIXERS, falcon_h1, holding, hymba, lending, zamba2

from eyas.experiments import catalogue
from eyas.layers.testing import STEADY, Trial, assert_equal_outcomes, assert_layout_changes_nothing, run
from eyas.parallel.layout import Layout


@st.composite
def layouts(draw, processes=4):
    """Layouts of at most `processes` processes."""
    tensor = draw(st.sampled_from([1, 2, 4]))
    pipeline = draw(st.sampled_from([size for size in (1, 2, 4) if tensor * size <= processes]))
    data = draw(st.sampled_from([size for size in (1, 2, 4) if tensor * pipeline * size <= processes]))
    return Layout(
        tensor=tensor,
        sequence=tensor > 1 and draw(st.booleans()),
        pipeline=pipeline,
        data=data,
        distributed_optimizer=data > 1 and draw(st.booleans()),
        overlap=data > 1 and draw(st.booleans()),
    )


@st.composite
def models(draw):
    """Small Falcon-H1s and rearrangements of their layers; heads divide by four, groups need not."""
    model = falcon_h1(
        heads=draw(st.sampled_from([4, 8])),
        kv_heads=draw(st.sampled_from([1, 2, 4])),
        ssm_heads=draw(st.sampled_from([4, 8])),
        groups=draw(st.sampled_from([1, 2, 4])),
        norm=draw(st.booleans()),
        tied=draw(st.booleans()),
        vocab=draw(st.sampled_from([48, 50, 51])),
    )
    model["pattern"] = draw(st.sampled_from([["ssm+attn", "ffn"], ["ssm+attn+ffn", "ssm"], ["ssm", "attn", "ffn"]]))
    tail = draw(st.sampled_from([[], ["/", "attn", "ffn"], ["/", "ssm+attn", "/", "ssm+attn"]]))
    model["pattern"] = model["pattern"] + tail
    model["mtp_repeated"] = bool(tail) and draw(st.booleans())
    model["layers"]["ssm"]["norm_before_gate"] = draw(st.booleans())
    model["layers"]["attn"]["window"] = draw(st.sampled_from([None, 3]))
    model["layers"]["attn"]["sinks"] = draw(st.booleans())
    return model


FIXED = {
    "tensor": Layout(tensor=2),
    "tensor and sequence": Layout(tensor=2, sequence=True),
    "tensor past groups and key-value heads": Layout(tensor=4, sequence=True),
    "context": Layout(tensor=2, sequence=True, context=2),
    "pipeline": Layout(pipeline=2),
    "pipeline of four": Layout(pipeline=4),
    "data": Layout(data=2),
    "distributed optimizer": Layout(data=2, distributed_optimizer=True),
    "tensor and pipeline": Layout(tensor=2, pipeline=2),
    "tensor and data": Layout(tensor=2, sequence=True, data=2, distributed_optimizer=True),
}


@pytest.mark.parametrize("layout", FIXED.values(), ids=FIXED.keys())
@pytest.mark.parametrize("tied", [False, True])
def test_falcon_h1_is_the_same_under_every_kind_of_layout(layout, tied):
    assert_layout_changes_nothing(falcon_h1(tied=tied), layout)


@pytest.mark.parametrize("name", ["tensor", "tensor past groups and key-value heads", "tensor and data"])
def test_shared_blocks_are_the_same_under_every_layout_of_one_stage(name):
    assert_layout_changes_nothing(zamba2(), FIXED[name])


@pytest.mark.parametrize("name", ["tensor", "tensor and sequence", "pipeline of four", "tensor and data"])
def test_averaged_branches_and_meta_tokens_are_the_same_under_every_kind_of_layout(name):
    assert_layout_changes_nothing(hymba(), FIXED[name])


@pytest.mark.parametrize("name", ["tensor", "tensor and sequence", "tensor past groups and key-value heads", "context"])
def test_lent_keys_and_values_are_the_same_under_every_layout_of_one_stage(name):
    assert_layout_changes_nothing(lending(meta_tokens=0 if name == "context" else 4), FIXED[name])


@pytest.mark.parametrize("exchange", ["gather", "alltoall"])
def test_lent_keys_and_values_are_exchanged_between_context_ranks(exchange):
    model = lending(meta_tokens=0)
    scaling = {"rule": "yarn", "factor": 4.0, "original_length": 8, "fast_turns": 4.0}
    for name in ("attn", "near", "same"):
        model["layers"][name] |= {"rope_scaling": scaling, "num_kv_heads": 2}
    assert_layout_changes_nothing(model, Layout(context=2, context_exchange=exchange))


def test_keys_and_values_may_be_lent_on_the_last_stage():
    pattern = ["whole", "ffn", "|", "local", "ffn", "again", "ffn", "again"]
    assert_layout_changes_nothing(lending() | {"pattern": pattern}, Layout(tensor=2, pipeline=2))


@pytest.mark.parametrize("name", ["tensor", "tensor and sequence", "pipeline", "tensor and data", "context"])
def test_dropout_is_the_same_under_every_kind_of_layout(name):
    assert_layout_changes_nothing(falcon_h1(depths=1) | {"dropout": 0.3}, FIXED[name])
    if name == "tensor and sequence":
        assert_layout_changes_nothing(hymba() | {"dropout": 0.3}, FIXED[name])


def test_dropout_draws_again_what_it_drew_when_a_block_is_recomputed():
    assert_layout_changes_nothing(falcon_h1() | {"dropout": 0.3}, Layout(recompute="full"))


def test_dropout_of_microbatches_is_that_of_the_batch():
    model = falcon_h1() | {"dropout": 0.3}
    whole, parts = (Trial(model=model, global_batch=4, microbatch=size) for size in (4, 1))
    assert_equal_outcomes(run(parts, Layout()), run(whole, Layout()), whole, Layout())


def test_shared_blocks_may_all_stand_on_the_first_stage():
    model = zamba2(repeat=1, pattern=["attend", "think", "ssm", "attend", "think", "ssm", "|", "ssm", "ssm"])
    assert_layout_changes_nothing(model, Layout(tensor=2, sequence=True, pipeline=2))


@pytest.mark.parametrize("layout", [Layout(tensor=2, sequence=True), Layout(tensor=4)], ids=["two ranks", "four ranks"])
@pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS.keys())
def test_every_mixer_is_the_same_under_tensor_parallelism(mixer, layout):
    assert_layout_changes_nothing(holding(mixer), layout, documents=True)


@pytest.mark.parametrize("kind", ["tensor and sequence", "pipeline", "tensor and pipeline", "tensor and data"])
def test_predicting_further_tokens_is_the_same_under_every_kind_of_layout(kind):
    assert_layout_changes_nothing(falcon_h1(depths=2), FIXED[kind], documents=True)


@ON_WORKERS
@given(models(), layouts(), st.booleans(), st.sampled_from([1, 2]), st.sampled_from([0.0, 0.1]), st.integers(0, 1000))
def test_a_layout_changes_nothing(model, layout, documents, microbatch, clip_norm, seed):
    assert_layout_changes_nothing(
        model,
        layout,
        global_batch=layout.data * microbatch * 2,
        microbatch=microbatch,
        documents=documents,
        optimizer=replace(STEADY, clip_norm=clip_norm),
        seed=seed,
    )


@st.composite
def other_blocks(draw):
    """Models whose blocks have options of their own."""
    if draw(st.booleans()):
        return hymba(meta_tokens=draw(st.sampled_from([0, 4, 8])), vocab=draw(st.sampled_from([48, 51])))
    return zamba2(tied=draw(st.booleans()), vocab=draw(st.sampled_from([48, 51])))


@pytest.mark.slow
@ON_WORKERS
@given(other_blocks(), layouts(), st.sampled_from([1, 2]), st.integers(0, 1000))
def test_a_layout_changes_nothing_in_blocks_with_options(model, layout, microbatch, seed):
    assume(layout.pipeline == 1 or not any(block.get("shared") for block in model["blocks"].values()))
    sizes = {"global_batch": layout.data * microbatch * 2, "microbatch": microbatch}
    assert_layout_changes_nothing(model, layout, **sizes, seed=seed)


@pytest.mark.slow
@ON_WORKERS
@given(models(), layouts(processes=8), st.integers(0, 1000))
def test_a_layout_of_eight_changes_nothing(model, layout, seed):
    assert_layout_changes_nothing(model, layout, global_batch=8, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["0.5b", "1.5b", "1.5b_deep", "3b", "7b", "34b"])
def test_the_heads_of_every_size_are_the_same_over_as_many_ranks_as_they_divide_by(size):
    """Heads and groups as released, of small widths; up to twelve ranks share what two key-value heads and one group
    have."""
    spec = catalogue.models()[f"falcon_h1_{size}"]
    ssm, attn = spec.layers["ssm"], spec.layers["attn"]
    model = falcon_h1(
        heads=attn.num_heads,
        kv_heads=attn.kv_heads,
        ssm_heads=ssm.num_heads,
        groups=ssm.num_groups,
        norm=ssm.gated_norm,
        repeat=1,
    )
    layout = Layout(tensor=gcd(attn.num_heads, ssm.num_heads), sequence=True)
    assert_layout_changes_nothing(model, layout, sequence_length=24)


def test_microbatches_change_nothing():
    model = falcon_h1()
    whole, parts = (Trial(model=model, global_batch=4, microbatch=size) for size in (4, 1))
    assert_equal_outcomes(run(parts, Layout()), run(whole, Layout()), whole, Layout())


def test_a_pattern_cut_decides_the_stages():
    model = falcon_h1(repeat=1) | {"pattern": ["ssm", "|", "attn", "ffn", "ffn"]}
    assert_layout_changes_nothing(model, Layout(pipeline=2))
