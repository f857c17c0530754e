import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import LayoutError
from eyas.core.weights import Coordinates
from eyas.parallel.layout import Layout, cores_here, processes_here

SIZES = st.integers(1, 9)
LAYOUTS = st.builds(Layout, tensor=SIZES, pipeline=SIZES, data=SIZES)


@given(LAYOUTS)
def test_processes_are_the_product_of_the_sizes(layout: Layout) -> None:
    assert layout.processes == layout.tensor * layout.pipeline * layout.data


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
        Layout(tensor=layout.tensor, pipeline=layout.pipeline, data=int(data)).check_world(processes)


@pytest.mark.parametrize(
    ("sizes", "inside"),
    [({"tensor": 2, "expert": 2}, "tensor=2"), ({"data": 2, "expert": 2, "expert_tensor": 3}, "expert_tensor=3")],
)
def test_the_experts_grid_must_divide_a_stages_processes(sizes: dict[str, int], inside: str) -> None:
    with pytest.raises(LayoutError, match=f"layout.expert=2 times layout.{inside} is .* does not divide the 2"):
        Layout(**sizes)
    assert Layout(tensor=2, expert=2, expert_tensor=1).inside_experts == 1
    assert Layout(tensor=2, data=2, expert=2).coordinates == Coordinates.of(2, 2, 2)


@pytest.mark.parametrize("field", ["virtual_pipeline", "context"])
def test_what_does_not_work_yet_is_refused_by_name(field: str) -> None:
    with pytest.raises(LayoutError, match=f"layout.{field}=2 is not supported yet"):
        Layout(tensor=2, **{field: 2})


@pytest.mark.parametrize("field", ["tensor", "pipeline", "context", "data"])
@pytest.mark.parametrize("size", [0, -1, 1.5, "2", True, None])
def test_sizes_are_whole_positive_numbers(field: str, size: object) -> None:
    with pytest.raises(LayoutError, match=f"layout.{field}=.* must be a whole number of at least 1"):
        Layout(**{field: size})  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["sequence", "distributed_optimizer"])
def test_switches_are_true_or_false(field: str) -> None:
    with pytest.raises(LayoutError, match=f"layout.{field}=1 must be true or false"):
        Layout(tensor=2, **{field: 1})  # type: ignore[arg-type]


def test_sequence_parallelism_needs_tensor_parallelism() -> None:
    with pytest.raises(LayoutError, match=r"layout.tensor=1; set layout.tensor=2 or more"):
        Layout(sequence=True)


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
    modules = ("layout", "stages", "environment", "launch", "rank_errors", "quiet")
    imports = "; ".join(f"import eyas.parallel.{module}" for module in modules)
    heavy = "{'torch', 'megatron', 'lightning', 'hydra'} & sys.modules.keys()"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {imports}; print({heavy})"], capture_output=True, text=True
    )
    assert done.stdout.strip() == "set()", done.stderr
