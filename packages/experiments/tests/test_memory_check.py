"""A run that cannot fit the machine is refused before it starts."""

from dataclasses import replace

import pytest

from eyas.core.accounting import parameters
from eyas.core.errors import ConfigError
from eyas.experiments import workers
from eyas.experiments.memory_check import check_memory
from eyas.experiments.run_config import RunConfig, load_run
from eyas.parallel.layout import Layout

CONFIG = {
    "model": {"hidden_size": 8, "vocab_size": 16, "pattern": ["ffn"], "layers": {"ffn": {"kind": "mlp"}}},
    "data": {"source": "task", "vocab_size": 16, "sequence_length": 16},
    "task": {"kind": "induction", "sequence_length": 16},
}


def a_run(**layout: object) -> RunConfig:
    return replace(load_run(CONFIG), layout=Layout(**layout))


@pytest.mark.parametrize(
    ("layout", "times"), [({}, 16), ({"data": 2}, 32), ({"data": 2, "distributed_optimizer": True}, 24)]
)
def test_weights_gradients_and_moments_of_all_ranks_must_fit(layout, times):
    run = a_run(**layout)
    needed = parameters(run.spec) * times
    check_memory(run, needed)
    with pytest.raises(ConfigError, match="weights and optimizer of . process(es)? take .* GiB, and this machine has"):
        check_memory(run, needed - 1)


def test_of_a_run_with_frozen_weights_the_weights_alone_are_counted():
    run = a_run()
    run = replace(run, optimizer=replace(run.optimizer, frozen=("embedding",)))
    check_memory(run, parameters(run.spec) * 4)
    with pytest.raises(ConfigError, match=": weights of 1 process take"):
        check_memory(run, parameters(run.spec) * 4 - 1)


def test_a_machine_is_asked_for_its_memory(monkeypatch):
    workers.check_machine(a_run())
    monkeypatch.setattr(workers, "memory_here", lambda: 1000)
    with pytest.raises(ConfigError, match="choose a smaller model"):
        workers.check_machine(a_run())
