"""Everything in conf/ composes into a run that could start."""

import re

import models
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core import mixer
from eyas.core.errors import ConfigError
from eyas.core.model import load_model
from eyas.core.rank_costs import RankShare, block_costs
from eyas.core.registry import mixers
from eyas.experiments.cli import main
from eyas.experiments.compose import compose
from eyas.experiments.conf_tree import conf_folder
from eyas.experiments.dry_run import bytes_per_weight, stage_parameters
from eyas.experiments.run_config import load_run
from eyas.layers.model import HybridLM, Stage
from eyas.parallel.layout import Layout, processes_here
from eyas.parallel.stages import stages_of

CONF = conf_folder()
LAYERS = [
    path.relative_to(CONF / "layer").with_suffix("").as_posix() for path in sorted(CONF.glob("layer/*_tiny/*.yaml"))
]

READ_MORE = [layer for layer in LAYERS if "input_size" in (CONF / "layer" / f"{layer}.yaml").read_text()]
"""Layers that read the embeddings too."""
BORROW = [layer for layer in LAYERS if "borrows_kv" in (CONF / "layer" / f"{layer}.yaml").read_text()]
"""Layers that use another's keys and values."""


def names(group):
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def run_of(*overrides):
    """The one configuration that these overrides compose."""
    jobs = []
    compose(overrides, jobs.append)
    (job,) = jobs
    return load_run(job.config)


@pytest.mark.parametrize("model", names("model"))
def test_every_model_composes(model):
    run = run_of(f"model={model}")
    assert run.spec.name == model
    used = {layer for block in run.spec.blocks for layer in block.layers}
    assert used == run.spec.layers.keys()


@pytest.mark.parametrize("experiment", names("experiment"))
def test_every_experiment_composes(experiment):
    assert run_of(f"experiment={experiment}").name.startswith(experiment)


@pytest.mark.parametrize("layout", names("layout"))
def test_every_layout_carries_the_default_model(layout):
    assert run_of(f"layout={layout}").layout.processes <= processes_here()


@pytest.mark.parametrize("group", ["optimizer", "schedule", "trainer", "profile", "sample", "task"])
def test_every_other_choice_composes(group):
    for name in names(group):
        run_of(f"{group}={name}")


@pytest.mark.parametrize("layer", [*LAYERS, *mixers()])
def test_every_layer_takes_another_ones_place_by_one_override(layer):
    if layer in READ_MORE or layer in BORROW:
        why = "set the layer's input_size" if layer in READ_MORE else "borrows 'near', which no block before it lends"
        with pytest.raises(ConfigError, match=why):
            run_of(f"layer@model.layers.ssm={layer}")
        return
    run = run_of(f"layer@model.layers.ssm={layer}")
    assert run.spec.layers["ssm"].parameters(run.spec.hidden_size) > 0


def test_sizes_left_open_follow_the_width():
    spec = run_of("model=falcon_h1_7b", "layer@model.layers.ssm=attention").spec
    assert spec.layers["ssm"].num_heads * spec.layers["ssm"].head_dim == spec.hidden_size == 3072
    assert spec.layers["ssm"].num_heads != spec.layers["attn"].num_heads


@given(
    sizes=st.sampled_from([(1, 1), (2, 1), (3, 1), (2, 2)]),
    depths=st.integers(0, 2),
    tied=st.booleans(),
    repeated=st.booleans(),
)
def test_dry_run_counts_the_weights_of_every_stage(sizes, depths, tied, repeated):
    spec = load_model(models.falcon_h1(tied=tied, depths=depths) | {"mtp_repeated": repeated and depths > 0})
    layout = Layout(pipeline=sizes[0], virtual_pipeline=sizes[1])
    costs = block_costs(spec, RankShare(sequence_length=8, microbatch=1))
    cut = stages_of(spec, layout, 8)
    for here, blocks in enumerate(cut):
        stage = HybridLM(spec, stage=Stage(blocks, here == 0, here == len(cut) - 1))
        counted = stage_parameters(spec, layout, here, layout.coordinates)
        counted += sum(costs[index].parameters for index in blocks)
        assert counted == sum(parameter.numel() for parameter in stage.parameters())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["trainer.precision=float32"], 4 + 4 + 8),
        (["trainer.precision=float32", "optimizer.cpu_offload=0.5"], 4 + 4 + 4),
        (["trainer.precision=bfloat16"], 2 + 4 + 4 + 8),
        (["trainer.precision=bfloat16", "optimizer.cpu_offload=1"], 2 + 4 + 4),
        (["trainer.precision=bfloat16", "layout=data2", "optimizer.cpu_offload=0.5"], 2 + 4 + (4 + 4) / 2),
    ],
)
def test_dry_run_counts_the_state_that_lies_beside_a_weight(overrides, expected):
    assert bytes_per_weight(run_of(*overrides)) == expected


def test_dry_run_shows_the_tail(capsys):
    assert main(["train", "--dry-run", "model=falcon_h1_tiny_mtp"]) == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "│  tail │" in line)
    assert "attn, ffn" in row


def test_dry_run_shows_what_recomputing_and_chunks_leave(capsys):
    def kept(*options):
        assert main(["train", "--dry-run", "model=falcon_h1_tiny_mtp", *options]) == 0
        blocks, _, ranks = capsys.readouterr().out.partition("Ranks")
        rows = [line.split("│") for line in blocks.splitlines() if re.search(r"│ +(\d+|tail) │", line)]
        return [float(row[5]) for row in rows], float(ranks.splitlines()[-2].split("│")[-2])

    plain, chunks = kept(), kept("layout.loss_chunk=64")
    ssm, full = kept("layout.recompute=[ssm]"), kept("layout.recompute=full")
    assert sum(full[0]) < sum(ssm[0]) < sum(plain[0])
    assert chunks[1] < plain[1] and full[1] < ssm[1] < plain[1]


def test_dry_run_counts_seven_billion_weights_and_allocates_none(monkeypatch, capsys):
    def allocate(*arguments):
        raise AssertionError("a weight was allocated")

    monkeypatch.setattr(mixer, "empty_parameter", allocate)
    code = main(["train", "--dry-run", "model=falcon_h1_7b", "layout.tensor=2", "layout.pipeline=2", "layout.data=1"])
    said = capsys.readouterr()
    assert (code, said.err) == (0, "")
    assert "falcon_h1_7b: 7,585,654,880 parameters" in said.out
    assert "tensor 2 x pipeline 2: 4 processes" in said.out
    ranks = re.findall(r"(\d+) │ +(\d+-\d+) │ +([\d,]+) │", said.out.partition("Ranks")[2])
    assert [rank[:2] for rank in ranks] == [("0", "0-43"), ("1", "44-87")]
    held = 2 * sum(int(weights.replace(",", "")) for *_, weights in ranks)
    assert 1 < held / 7_585_654_880 < 1.01  # a few weights are held by both ranks of a stage


def test_dry_run_shows_every_stage_of_a_rank_and_balances_their_work(capsys):
    options = ["model=falcon_h1_tiny", "layout.pipeline=2", "layout.virtual_pipeline=2", "layout.stages=auto"]
    assert main(["train", "--dry-run", *options, "model.vocab_size=4096"]) == 0
    ranks = capsys.readouterr().out.partition("Ranks")[2]
    stages = re.findall(r"│ +(\d) │ +(\d-\d) │ +[\d,]* │ +([\d.]+) │", ranks)
    assert [stage[:2] for stage in stages] == [("0", "0-1"), ("2", "4-4"), ("1", "2-3"), ("3", "5-5")]
    assert max(stages, key=lambda stage: float(stage[2]))[0] == "3"  # the head is there


def test_dry_run_shows_both_halves_that_branches_lie_on(capsys):
    options = ["model=falcon_h1_tiny", "layout.tensor=2", "layout.data=4", "layout.branches=halves"]
    assert main(["train", "--dry-run", *options, "model.vocab_size=4096"]) == 0
    said = capsys.readouterr().out
    assert "activations" in said.partition("Ranks")[2]  # whole, also on a narrow terminal
    heading, _, ranks = said.partition("Ranks")[2].partition("\n")
    assert heading.strip() == "(4 of each kind)"
    rows = re.findall(r"│ +0 │ +0-5 │ +([\d,]+) │ .* │ +(1st|2nd) │", ranks)
    assert [half for _, half in rows] == ["1st", "2nd"]
    first, second = (int(weights.replace(",", "")) for weights, _ in rows)
    assert first != second
    whole = int(re.search(r": ([\d,]+) parameters", said)[1].replace(",", ""))
    assert first + second == whole + (6 + 1) * 256  # both have each block's norm and the last


@pytest.mark.parametrize("cost", ["activation_bytes", "state_bytes"])
def test_a_cost_that_a_mixer_does_not_state_is_one_line(cost, monkeypatch, capsys):
    monkeypatch.delattr(mixers()["mlp"].mixer.Config, cost)
    assert main(["train", "--dry-run"]) == 2
    assert capsys.readouterr().err == f"eyas: mlp does not state its {cost}; define them in the mixer's Config\n"
