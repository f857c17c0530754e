import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import LayoutError
from eyas.core.weights import Coordinates
from eyas.parallel.layout import ContextOrder, Layout, cores_here, processes_here

SIZES = st.integers(1, 9)
LAYOUTS = st.builds(Layout, tensor=SIZES, pipeline=SIZES, context=SIZES, data=SIZES)


@given(LAYOUTS)
def test_processes_are_the_product_of_the_sizes(layout: Layout) -> None:
    assert layout.processes == layout.tensor * layout.pipeline * layout.context * layout.data


@given(LAYOUTS, st.integers(1, 100), st.integers(1, 9))
def test_accepted_batches_fill_whole_microbatches_on_every_replica(layout: Layout, batch: int, microbatch: int) -> None:
    try:
        count = layout.microbatches(batch, microbatch)
    except LayoutError as error:
        assert batch % (layout.data * microbatch)
        above = int(str(error).partition("; use ")[2].partition(",")[0].split()[-1])
        assert layout.microbatches(above, microbatch) * layout.data * microbatch == above
    else:
        assert count * layout.data * microbatch == batch


@given(LAYOUTS, st.integers(1, 200))
def test_a_job_is_accepted_only_where_the_layout_fills_it(layout: Layout, processes: int) -> None:
    if layout.processes == processes:
        layout.check_world(processes)
        return
    with pytest.raises(LayoutError) as refused:
        layout.check_world(processes)
    data = str(refused.value).partition("set layout.data=")[2]
    if data:
        replace(layout, data=int(data)).check_world(processes)


@pytest.mark.parametrize(
    ("sizes", "inside"),
    [({"tensor": 2, "expert": 2}, "tensor=2"), ({"data": 2, "expert": 2, "expert_tensor": 3}, "expert_tensor=3")],
)
def test_the_experts_grid_must_divide_a_stages_processes(sizes: dict[str, int], inside: str) -> None:
    with pytest.raises(LayoutError, match=f"layout.expert=2 times layout.{inside} is .* does not divide the 2"):
        Layout(**sizes)
    assert Layout(tensor=2, expert=2, expert_tensor=1).inside_experts == 1
    assert Layout(tensor=2, data=2, expert=2).coordinates == Coordinates.of(2, 2, 2)


@pytest.mark.parametrize("field", ["tensor", "pipeline", "context", "data"])
@pytest.mark.parametrize("size", [0, -1, 1.5, "2", True, None])
def test_sizes_are_whole_positive_numbers(field: str, size: object) -> None:
    with pytest.raises(LayoutError, match=f"layout.{field}=.* must be a whole number of at least 1"):
        Layout(**{field: size})


@pytest.mark.parametrize("field", ["sequence", "distributed_optimizer"])
def test_switches_are_true_or_false(field: str) -> None:
    with pytest.raises(LayoutError, match=f"layout.{field}=1 must be true or false"):
        Layout(tensor=2, **{field: 1})


def test_sequence_parallelism_needs_tensor_parallelism() -> None:
    with pytest.raises(LayoutError, match=r"layout.tensor=1; set layout.tensor=2 or more"):
        Layout(sequence=True)


@given(LAYOUTS, st.integers(1, 4))
def test_pipeline_processes_take_the_stages_in_turn(layout: Layout, virtual: int) -> None:
    if layout.pipeline == 1:
        return
    interleaved = replace(layout, virtual_pipeline=virtual)
    held = [interleaved.stages_of(process) for process in range(layout.pipeline)]
    assert all(len(stages) == virtual for stages in held)
    assert [stage for turn in zip(*held, strict=True) for stage in turn] == list(range(interleaved.stage_count))


def test_interleaved_stages_need_several_pipeline_processes() -> None:
    with pytest.raises(LayoutError, match=r"layout.pipeline=1; set layout.pipeline=2 or more, or layout.virtual"):
        Layout(virtual_pipeline=2)


@given(st.integers(2, 5), st.integers(1, 20))
def test_interleaved_stages_take_microbatches_in_groups(pipeline: int, microbatches: int) -> None:
    Layout(pipeline=pipeline).check_microbatches(microbatches)
    layout = Layout(pipeline=pipeline, virtual_pipeline=2)
    if microbatches % pipeline == 0:
        layout.check_microbatches(microbatches)
        return
    with pytest.raises(LayoutError) as refused:
        layout.check_microbatches(microbatches)
    better = str(refused.value).partition("; make it ")[2].partition(" by")[0]
    for number in better.split(" or "):
        layout.check_microbatches(int(number))


@pytest.mark.parametrize(("stages", "shown"), [((3, 0), r"\[3, 0\]"), ([3, 3], r"\[3, 3\]"), ("even", "even")])
def test_stages_are_numbers_of_blocks_or_a_way_to_choose_them(stages: Any, shown: str) -> None:
    with pytest.raises(LayoutError, match=f"layout.stages={shown} must be auto, or each stage's number of blocks"):
        Layout(pipeline=2, stages=stages)


@given(st.integers(2, 9), st.integers(1, 100))
def test_sequences_must_split_evenly_under_sequence_parallelism(tensor: int, length: int) -> None:
    Layout(tensor=tensor).check_sequence(length)
    layout = Layout(tensor=tensor, sequence=True)
    if length % tensor == 0:
        layout.check_sequence(length)
        return
    with pytest.raises(LayoutError) as refused:
        layout.check_sequence(length)
    layout.check_sequence(int(str(refused.value).partition("such as ")[2].partition(",")[0]))


def test_meta_tokens_lengthen_the_sequences_that_must_split() -> None:
    layout = Layout(tensor=4, sequence=True)
    layout.check_sequence(14, meta_tokens=2)
    with pytest.raises(LayoutError, match="sequence length 16 behind 2 meta tokens .* layout.tensor=4 .* use 18, or"):
        layout.check_sequence(16, meta_tokens=2)


@given(
    st.integers(1, 4), st.booleans(), st.integers(2, 4), st.sampled_from(["zigzag", "contiguous"]), st.integers(1, 100)
)
def test_sequences_must_split_evenly_into_pieces(
    tensor: int, sequence: bool, context: int, order: ContextOrder, length: int
) -> None:
    layout = Layout(tensor=tensor, sequence=sequence and tensor > 1, context=context, context_order=order)
    unit = context * (2 if order == "zigzag" else 1) * (tensor if layout.sequence else 1)
    if length % unit == 0:
        layout.check_sequence(length)
        return
    with pytest.raises(LayoutError, match=f"pieces of layout.context={context}") as refused:
        layout.check_sequence(length)
    layout.check_sequence(int(str(refused.value).partition("such as ")[2].partition(",")[0]))


@pytest.mark.parametrize("name, choice", [("context_order", "contiguous"), ("context_exchange", "alltoall")])
def test_how_sequences_are_shared_means_nothing_without_context_ranks(name: str, choice: str) -> None:
    assert getattr(Layout(context=2, **{name: choice}), name) == choice
    with pytest.raises(LayoutError, match=f"layout.{name}={choice} .* layout.context=1"):
        Layout(**{name: choice})
    with pytest.raises(LayoutError, match=f"layout.{name}='ring' must be one of"):
        Layout(context=2, **{name: "ring"})


def test_a_layout_names_its_sizes_and_all_that_was_chosen() -> None:
    assert str(Layout()) == "layout of one process"
    chosen = Layout(tensor=2, data=3, sequence=True, expert=2, expert_tensor=1, recompute=("ssm", "norm"))
    said = "layout of tensor 2 x data 3, sequence, expert 2, expert tensor 1, recompute ssm + norm"
    assert str(chosen) == said


@given(LAYOUTS, st.integers(1, 100))
def test_a_layout_larger_than_the_machine_is_refused(layout: Layout, available: int) -> None:
    if layout.processes <= available:
        layout.check_machine(available)
    else:
        with pytest.raises(LayoutError, match=f"carries at most {available}"):
            layout.check_machine(available)


def test_a_laptop_carries_eight_processes_and_a_gpu_carries_one() -> None:
    assert processes_here() >= 8
    assert processes_here(gpus=3) == 3


def test_a_process_counts_only_the_cores_it_may_use() -> None:
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, [min(allowed)])
        assert cores_here() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert cores_here() == len(allowed)


def test_layouts_and_launching_cost_no_heavy_import() -> None:
    modules = ("layout", "stages", "in_flight", "environment", "launch", "rank_errors", "quiet")
    imports = "; ".join(f"import eyas.parallel.{module}" for module in modules)
    heavy = "{'torch', 'megatron', 'lightning', 'hydra'} & sys.modules.keys()"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {imports}; print({heavy})"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "set()", done.stderr
