import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.parallel.environment import FIRST_PORT, PORTS, Joined, first_host, joined

SLURM = {
    "SLURM_JOB_ID": "123456",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_STEP_NODELIST": "gpu[003-004]",
    "SLURM_PROCID": "9",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


def test_a_process_on_its_own_has_joined_nothing() -> None:
    assert joined({"PATH": "/bin"}) is None


def test_a_torchrun_rank_knows_its_place() -> None:
    assert joined(dict(TORCHRUN)) == Joined(3, 4, 1, "torchrun")


def test_torchrun_inside_slurm_wins() -> None:
    environment = {**SLURM, **TORCHRUN}
    assert joined(environment) == Joined(3, 4, 1, "torchrun")
    assert environment["MASTER_PORT"] == TORCHRUN["MASTER_PORT"]


def test_a_slurm_task_knows_its_place_and_where_to_meet() -> None:
    environment = dict(SLURM)
    assert joined(environment) == Joined(9, 16, 1, "SLURM")
    assert environment["MASTER_ADDR"] == "gpu003"
    assert environment["GROUP_RANK"] == "1"
    assert FIRST_PORT <= int(environment["MASTER_PORT"]) < FIRST_PORT + PORTS


@given(st.integers(1, 10**8), st.integers(0, 100))
def test_all_tasks_of_a_slurm_step_meet_at_the_same_place(job: int, step: int) -> None:
    steps = [{**SLURM, "SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step), "SLURM_PROCID": rank} for rank in "05"]
    for environment in steps:
        joined(environment)
    assert steps[0]["MASTER_PORT"] == steps[1]["MASTER_PORT"]
    assert steps[0]["MASTER_ADDR"] == steps[1]["MASTER_ADDR"]


@pytest.mark.parametrize("alone", [{"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_STEP_ID": None}])
def test_an_interactive_shell_or_batch_script_is_a_process_on_its_own(alone: dict[str, str | None]) -> None:
    environment = {name: value for name, value in {**SLURM, **alone}.items() if value is not None}
    assert joined(environment) is None
    assert "RANK" not in environment


@pytest.mark.parametrize(
    ("hosts", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("node[001-003,007],other5", "node001"),
        ("node[7,9-12]", "node7"),
        ("rack[2-3]-node[01-16],login", "rack2-node01"),
        ("a-b-[08-11]-ib.cluster", "a-b-08-ib.cluster"),
        ("login,node[1-2]", "login"),
    ],
)
def test_the_first_host_of_a_node_list(hosts: str, first: str) -> None:
    assert first_host(hosts) == first


@pytest.mark.parametrize("missing", ["SLURM_PROCID", "SLURM_JOB_ID", "SLURM_LOCALID"])
def test_a_broken_slurm_environment_is_named(missing: str) -> None:
    environment = {name: value for name, value in SLURM.items() if name != missing}
    with pytest.raises(ConfigError, match=missing):
        joined(environment)


@pytest.mark.parametrize("wrong", [{"RANK": "four"}, {"RANK": "4"}, {"WORLD_SIZE": ""}])
def test_a_broken_torchrun_environment_is_named(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        joined({**TORCHRUN, **wrong})
