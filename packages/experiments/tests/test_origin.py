"""What a run folder keeps of how its configuration came about."""

from pathlib import Path

import pytest
import yaml

from eyas.experiments.compose import Job, compose
from eyas.experiments.origin import seeded
from eyas.experiments.run_folder import claim
from eyas.experiments.run_records import read_run


def test_choices_and_what_is_made_of_the_seed_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    jobs: list[Job] = []
    compose(["experiment=upcycling", "seed=2"], jobs.append)
    compose(["experiment=upcycling_dense"], jobs.append)
    job, dense = jobs
    assert job.overrides == ["experiment=upcycling", "seed=2"]
    assert {"experiment": "upcycling", "upcycle": "none"}.items() <= job.origin.choices.items()
    assert dense.origin.choices["model"] == "upcycling"
    assert "model" not in job.origin.choices  # the other run's
    assert not any(group.startswith(("hydra", "schema", "/")) for group in job.origin.choices)
    assert job.origin.seeded["start_from"] == "${runs}/upcycling_dense_${seed}"
    run = read_run(claim(tmp_path / "run", job.config, job.origin))
    assert (run.choices, run.seeded) == (job.origin.choices, job.origin.seeded)


def test_only_what_options_decide_is_made_of_the_seed() -> None:
    unresolved = yaml.safe_load("""
        seed: 1
        data: {seed: "${seed}", cache: "${oc.env:HOME}/${seed}", files: "texts/*.txt"}
        name: run_${data.seed}
        model: {vocab_size: "${data.vocab_size}"}
    """)
    assert dict(seeded(unresolved)) == {"data.seed": "${seed}", "name": "run_${data.seed}"}
