from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from eyas.core.errors import LayoutError
from eyas.parallel import groups
from eyas.parallel.layout import Layout
from eyas.parallel.megatron import parallel_state
from eyas.parallel.pool import pool
from eyas.parallel.this_rank import device_here

LAYOUTS = [
    Layout(tensor=4),
    Layout(pipeline=4),
    Layout(data=4),
    Layout(tensor=2, data=2),
    Layout(tensor=2, pipeline=2),
    Layout(pipeline=2, data=2),
    Layout(context=2, data=2),
    Layout(tensor=2, context=2),
    Layout(context=4),
]


def coordinates(layout: Layout) -> tuple[int, int, int, int]:
    groups.initialise(layout)
    for group in (
        parallel_state.get_tensor_model_parallel_group(),
        parallel_state.get_pipeline_model_parallel_group(),
        parallel_state.get_data_parallel_group(),
        parallel_state.get_context_parallel_group(),
    ):
        ones = torch.ones(1)
        dist.all_reduce(ones, group=group)
        assert ones.item() == group.size()
    return (
        parallel_state.get_pipeline_model_parallel_rank(),
        parallel_state.get_data_parallel_rank(),
        parallel_state.get_context_parallel_rank(),
        parallel_state.get_tensor_model_parallel_rank(),
    )


def test_ranks_count_tensor_first_then_context_data_and_pipeline() -> None:
    for layout in [*LAYOUTS, *LAYOUTS[::-1], *LAYOUTS]:  # more layouts than are kept open, there and back
        expected = [
            (stage, replica, part, rank)
            for stage in range(layout.pipeline)
            for replica in range(layout.data)
            for part in range(layout.context)
            for rank in range(layout.tensor)
        ]
        assert pool(4).run(coordinates, layout) == expected, layout


def same_groups(first: Layout, second: Layout) -> bool:
    groups.initialise(first)
    group = parallel_state.get_data_parallel_group()
    groups.initialise(second)
    return parallel_state.get_data_parallel_group() is group


def test_initialising_again_changes_nothing() -> None:
    plain, options = Layout(tensor=2), Layout(tensor=2, sequence=True, distributed_optimizer=True)
    assert pool(2).run(same_groups, plain, plain) == [True, True]
    assert pool(2).run(same_groups, plain, options) == [True, True]
    assert pool(2).run(same_groups, plain, Layout(data=2)) == [False, False]


def test_a_layout_that_does_not_fill_the_job_is_refused() -> None:
    with pytest.raises(LayoutError, match=r"layout of tensor 4 needs 4 processes, but this job has 2"):
        pool(2).run(groups.initialise, Layout(tensor=4))


def copies_of_three() -> None:
    groups.initialise(Layout(tensor=2))
    groups.copies_group(3)


def test_copies_must_divide_the_tensor_ranks() -> None:
    with pytest.raises(LayoutError, match="3 copies of a weight"):
        pool(2).run(copies_of_three)


def leave_and_return() -> int:
    groups.initialise(Layout(data=2))
    store = dist.distributed_c10d._get_default_store()
    rank = dist.get_rank()
    groups.finish()
    assert not dist.is_initialized()
    dist.init_process_group("gloo", store=dist.PrefixStore("again", store), rank=rank, world_size=2)
    groups.initialise(Layout(tensor=2))
    return int(parallel_state.get_tensor_model_parallel_world_size())


def test_a_job_can_be_left_and_another_joined() -> None:
    assert pool(2).run(leave_and_return) == [2, 2]


def test_all_groups_of_a_rank_share_one_gloo_device() -> None:
    """By itself torch would start a thread for each of them, which never sleeps for long."""
    assert set(pool(4).run(gloo_threads, Layout(tensor=2, data=2))) == {1}


def gloo_threads(layout: Layout) -> int:
    groups.initialise(layout)
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    assert any(name.startswith("pt_gloo") for name in names)
    return sum(name.startswith("gloo_tcp") for name in names)


@pytest.mark.parametrize(("visible", "chosen"), [(4, [2]), (1, [])])
def test_a_process_takes_its_gpu_of_those_that_it_sees(monkeypatch, visible, chosen):
    taken, backends = [], []
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    monkeypatch.setattr(dist, "init_process_group", backends.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: taken[-1] if taken else 0)
    groups.start_world()
    assert (taken, backends) == (chosen, ["nccl"])
    assert device_here() == torch.device("cuda", chosen[0] if chosen else 0)


def test_a_process_that_sees_some_gpus_and_not_its_own_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(LayoutError, match="rank 2 of its machine sees 2 GPUs; let every process see one, or all"):
        groups.start_world()
