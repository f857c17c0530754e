"""Whole runs through the command line: layouts follow one curve, a killed run resumes, a sweep survives failures."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from small_runs import SMALL, eyas, last_loss, losses, train, write_texts

from eyas.experiments.cli import BETWEEN_TEXTS, main


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a small corpus of its own; runs go to `runs` in it."""
    folder = tmp_path_factory.mktemp("runs")
    write_texts(folder)
    return folder


@pytest.fixture(scope="module")
def one_process(place):
    return train(place, "one")


LAYOUTS = {
    "tensor": ["layout.tensor=2"],
    "sequence": ["layout.tensor=2", "layout.sequence=true"],
    "pipeline": ["layout.pipeline=2"],
    "data": ["layout.data=2"],
    "distributed": ["layout.data=2", "layout.distributed_optimizer=true"],
    "four": ["layout.tensor=2", "layout.pipeline=2"],
}
QUICK = ("four",)
"""Enough for every day; the others run with the slow proofs, and tests/test_layouts.py has all of them in float64."""


@pytest.mark.parametrize(
    "kind", [kind if kind in QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in LAYOUTS]
)
def test_a_layout_follows_the_curve_of_one_process(place, one_process, kind):
    folder = train(place, kind, *LAYOUTS[kind])
    assert [file.name for file in (folder / "ranks").iterdir() if file.read_text()] == []
    expected, actual = losses(one_process), losses(folder)
    assert len(actual) == len(expected) == 20
    assert max(abs(a - e) / e for a, e in zip(actual, expected, strict=True)) < 1e-4
    assert expected[-1] < expected[0] - 0.2


@pytest.fixture(scope="module")
def killed(place, one_process):
    """A run that was killed after its checkpoint at step 10."""
    process = eyas(place, "train", "data.files=text*.txt", *SMALL, "name=killed", "trainer.max_steps=20")
    folder = wait_for(lambda: next((place / "runs" / "killed").glob("*/checkpoints/step-00000010"), None), 120)
    folder = folder.parent.parent
    os.kill(worker_of(folder, 0), signal.SIGKILL)
    err = failed_in_seconds(process, folder)
    assert err.startswith("eyas: rank 0 was killed by SIGKILL"), err
    assert err.count("\n") == 1
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sent", "layout", "rank"),
    [
        pytest.param(signal.SIGTERM, "layout.data=1", 0, id="SIGTERM alone"),
        pytest.param(signal.SIGTERM, "layout.data=2", 0, id="SIGTERM of two"),
        pytest.param(signal.SIGKILL, "layout.tensor=2", 1, id="SIGKILL of two"),
        pytest.param(signal.SIGKILL, "layout.pipeline=2", 1, id="SIGKILL of two stages"),
    ],
)
def test_a_rank_that_is_ended_ends_its_training_in_seconds_and_is_named(place, tmp_path, sent, layout, rank):
    options = [*SMALL, f"runs={tmp_path}", "trainer.max_steps=2000", layout]
    process = eyas(place, "train", "data.files=text*.txt", *options)
    rows = wait_for(lambda: next(tmp_path.glob("run/*/metrics.csv"), None), 120)
    wait_for(lambda: rows.read_text().count("\n") > 2 or None, 60)
    os.kill(worker_of(rows.parent, rank), sent)
    err = failed_in_seconds(process, rows.parent)
    named = rf"eyas: rank {rank} was killed by {sent.name}( \(out of memory\?\))? \(run folder: \S+\)\n"
    assert re.fullmatch(named, err), err


def failed_in_seconds(process, folder):
    """What a run of which a rank has just ended says of it."""
    started = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert time.monotonic() - started < 20, "the job outlived its worker"
    assert process.returncode == 1
    assert json.loads((folder / "status.json").read_text())["state"] == "failed"
    assert list(workers_of(folder)) == []
    return err


def worker_of(folder, rank):
    """Process number of a rank of the run."""
    (number,) = (n for n in workers_of(folder) if f"\0RANK={rank}\0" in Path(f"/proc/{n}/environ").read_text())
    return number


def workers_of(folder):
    """Process numbers of the run's workers."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue
            if "eyas.experiments.worker" in command and folder.name in command and folder.parent.name in command:
                yield int(entry.name)


def wait_for(found, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (result := found()) is not None:
            return result
        time.sleep(0.02)
    raise AssertionError("it did not happen in time")


@pytest.mark.parametrize(
    ("overrides", "tolerance"),
    [
        ([], 0.0),
        pytest.param(["layout.tensor=2"], 1e-5, marks=pytest.mark.slow),
        pytest.param(["layout.pipeline=2"], 1e-5, marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_resumes_to_the_same_loss(place, one_process, killed, tmp_path, overrides, tolerance):
    folder = tmp_path / "resumed"
    subprocess.run(["cp", "-r", killed, folder], check=True)
    for later in (folder / "checkpoints").glob("step-00000020*"):
        subprocess.run(["rm", "-r", later], check=True)
    process = eyas(place, "resume", str(folder), *overrides)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    expected, actual = losses(one_process), losses(folder)
    assert len(actual) == 20
    assert max(abs(a - e) / e for a, e in zip(actual, expected, strict=True)) <= tolerance
    assert abs(last_loss(folder) - last_loss(one_process)) <= tolerance * last_loss(one_process)
    with (folder / "metrics.csv").open() as stream:
        worked = sum(float(row["step_seconds"]) for row in csv.DictReader(stream))
    assert json.loads((folder / "metrics.json").read_text())["seconds"] > worked


def test_a_run_that_was_killed_in_its_last_validation_tells_all_that_it_would_have(place, one_process, tmp_path):
    folder = tmp_path / "ended"
    shutil.copytree(one_process, folder)
    expected = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").unlink()
    (folder / "status.json").write_text('{"state": "failed", "error": "killed"}')
    table, _, validation = (folder / "metrics.csv").read_text().rpartition(",")
    (folder / "metrics.csv").write_text(f"{table},\n")
    process = eyas(place, "resume", str(folder))
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    found = json.loads((folder / "metrics.json").read_text())
    del found["seconds"], expected["seconds"]
    assert found == expected
    whole, _, again = (folder / "metrics.csv").read_text().rpartition(",")
    assert whole == table
    assert float(again) == pytest.approx(float(validation), rel=1e-6)


RAMPED = (
    "trainer.precision=bfloat16", "layout.data=2", "layout.distributed_optimizer=true", "layout.overlap=true",
    "trainer.global_batch=12", "trainer.batch_ramp={start:4,increment:4,steps:15}",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("overrides", "tolerance"),
    [([], 0.0), (["layout.data=1", "layout.overlap=false", "layout.distributed_optimizer=false"], 1e-2)],
)
def test_a_bfloat16_run_resumes_while_its_batch_grows(place, ramped, tmp_path, overrides, tolerance):
    folder = tmp_path / "resumed"
    shutil.copytree(ramped, folder)
    shutil.rmtree(folder / "checkpoints" / "step-00000020")
    (folder / "status.json").write_text('{"state": "failed", "error": "killed"}')
    process = eyas(place, "resume", str(folder), *overrides)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    expected, actual = losses(ramped), losses(folder)
    assert len(actual) == 20
    assert max(abs(a - e) / e for a, e in zip(actual, expected, strict=True)) <= tolerance
    assert abs(last_loss(folder) - last_loss(ramped)) <= tolerance * last_loss(ramped)


@pytest.fixture(scope="module")
def ramped(place):
    """A run in bfloat16 whose batch grows: 4 sequences in 8 steps, 8 in 7, 12 in 5."""
    return train(place, "ramped", *RAMPED)


@pytest.mark.slow
def test_a_run_with_a_growing_batch_tells_what_it_has_seen(ramped):
    seen = 4 * 8 + 8 * 7 + 12 * 5
    with (ramped / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [int(float(row["global_batch"])) for row in rows] == [4] * 8 + [8] * 7 + [12] * 5
    assert (float(rows[-1]["samples"]), float(rows[-1]["tokens"])) == (seen, seen * 32)
    metrics = json.loads((ramped / "metrics.json").read_text())
    assert (metrics["samples"], metrics["tokens"]) == (seen, seen * 32)
    assert losses(ramped)[-1] < losses(ramped)[0] - 0.2


@pytest.mark.slow
def test_a_bfloat16_run_is_continued_and_started_from(place, ramped):
    process = eyas(place, "generate", str(ramped), "--prompt", "word1 ", "--tokens", "8", "--greedy")
    out, err = process.communicate(timeout=120)
    assert (process.returncode, err) == (0, "")
    assert out.startswith("word1 ")
    short = [option for option in SMALL if not option.startswith(("model.", "data.vocab_size"))]
    process = eyas(place, "train", f"start_from={ramped}", "name=widened", *short, "data.files=text*.txt")
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    (folder,) = (place / "runs" / "widened").iterdir()
    assert losses(folder)[0] < losses(ramped)[0] - 0.2, "it starts from the trained weights"


@pytest.mark.slow
def test_dropout_draws_the_same_under_any_layout(place):
    short = ["model.dropout=0.2", "trainer.max_steps=4", "trainer.checkpoint_interval=null"]
    alone, several = (losses(train(place, f"dropout{n}", *short, f"layout.data={n}")) for n in (1, 2))
    assert max(abs(a - e) / e for a, e in zip(several, alone, strict=True)) < 1e-5


@pytest.mark.slow
def test_a_sweep_goes_on_after_a_failed_job_and_results_tell_of_it(place):
    short = [*SMALL, "trainer.max_steps=4", "trainer.checkpoint_interval=null"]
    arguments = ["data.files=text*.txt", *short, "name=sweep", "layout.tensor=1,3", "seed=1,2"]
    process = eyas(place, "train", "-m", *arguments)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 2
    assert "num_heads=4 cannot be split over layout.tensor=3" in err
    results = eyas(place, "results", "runs/sweep", "--md")
    table, err = results.communicate(timeout=60)
    assert results.returncode == 0, err
    assert "± " in table, "the two seeds of the runs that finished have a mean and a deviation"
    assert table.count("FAILED: model.layers.ssm: mamba2.num_heads=4") == 2


def test_a_trained_run_continues_a_text(place, one_process):
    process = eyas(place, "generate", str(one_process), "--prompt", "word1 ", "--tokens", "8", "--temperature", "0")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err == ""
    assert out.startswith("word1 ")


@pytest.fixture
def generated(one_process, capsys):
    """Runs `eyas generate` with the likeliest tokens; returns the texts."""

    def run(*arguments):
        assert main(["generate", str(one_process), "--greedy", "--tokens", "8", *arguments]) == 0
        return capsys.readouterr().out.removesuffix("\n").split(BETWEEN_TEXTS)

    return run


def test_texts_are_generated_together_as_alone(generated):
    prompts = ["word1 ", "word2 word2 word3 ", ""]
    together = generated(*(word for prompt in prompts for word in ("--prompt", prompt)))
    assert together == [text for prompt in prompts for text in generated("--prompt", prompt)]
    stop = together[0].removeprefix(prompts[0])[2:4]
    (cut,) = generated("--prompt", prompts[0], "--stop", stop)
    assert cut == prompts[0] + together[0].removeprefix(prompts[0]).partition(stop)[0]


def test_a_kept_prefix_continues_as_the_text_did(generated, tmp_path):
    whole = generated("--prompt", "word1 word2", "--save-prefix", str(tmp_path / "kept"))
    assert generated("--from-prefix", str(tmp_path / "kept")) == whole
    first, second = generated("--from-prefix", str(tmp_path / "kept"), "--prompt", "", "--prompt", " word3")
    assert [first] == whole
    assert second.startswith("word1 word2 word3")


@pytest.mark.slow
def test_a_run_that_predicts_further_tokens_reports_them_and_speculates(place, capsys):
    depths = ["model.pattern=[ssm+attn,ffn,/,attn,ffn,/,attn,ffn]", "model.mtp_repeated=true", "layout.pipeline=2"]
    folder = train(place, "further", *depths, "trainer.max_steps=4", "trainer.checkpoint_interval=null")
    with (folder / "metrics.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert all(float(row["train/mtp_loss"]) > 0 for row in rows)
    assert json.loads((folder / "metrics.json").read_text())["tail_parameters"] > 0
    said = []
    for options in ([], ["--speculate"]):
        assert main(["generate", str(folder), "--greedy", "--tokens", "12", "--prompt", "word1 ", *options]) == 0
        said.append(capsys.readouterr())
    assert said[0].out == said[1].out
    assert said[0].err == ""
    assert re.search(r"^accepted \d+ of \d+ drafted tokens \(\d+%\)$", said[1].err, re.MULTILINE)


def test_transformers_continues_a_text_as_a_trained_run_does(place, one_process, capsys):
    transformers = pytest.importorskip("transformers")
    target = place / "exported"
    assert main(["export-hf", str(one_process), str(target)]) == 0
    assert capsys.readouterr().out == f"Model for transformers: {target}\n"
    assert main(["generate", str(one_process), "--prompt", "word1 ", "--tokens", "8", "--temperature", "0"]) == 0
    ours, err = capsys.readouterr()
    assert err == ""
    model = transformers.AutoModelForCausalLM.from_pretrained(target).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(target)
    tokens = tokenizer("word1 ", return_tensors="pt").input_ids
    theirs = tokenizer.decode(model.generate(tokens, max_new_tokens=8, do_sample=False)[0], skip_special_tokens=True)
    assert ours == theirs + "\n"
    assert tokenizer("a <|endoftext|> b").input_ids.count(0) == 1, "the one before the text"


def test_a_run_starts_from_a_model_of_transformers(place, monkeypatch, capsys):
    transformers = pytest.importorskip("transformers")
    from eyas.experiments.tokenizer import train_tokenizer

    source = place / "llama"
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=0,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(source)
    texts = [path.read_text() for path in place.glob("text*.txt")]
    train_tokenizer(iter(texts), 300).save(str(source / "tokenizer.json"))
    monkeypatch.chdir(place)
    assert main(["import-hf", str(source), "--name", "imported"]) == 0
    start = capsys.readouterr().out.removeprefix("Run folder: ").strip()

    short = [option for option in SMALL if not option.startswith(("model.", "data.vocab_size"))]
    options = ["data.files=text*.txt", *short, "trainer.max_steps=3", "schedule.warmup_steps=0"]
    newest = Path(start).parent  # a folder of runs stands for the newest in it
    process = eyas(place, "train", f"start_from={newest}", "name=tuned", "layout.tensor=2", *options)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    (folder,) = (place / "runs" / "tuned").iterdir()
    assert losses(folder)[2] < losses(folder)[0]
    untrained = loss_before_training(place / start, folder)
    assert abs(losses(folder)[0] - untrained) < 1e-4 * untrained

    assert main(["export-hf", str(folder), str(place / "tuned")]) == 0
    assert type(transformers.AutoModelForCausalLM.from_pretrained(place / "tuned")).__name__ == "LlamaForCausalLM"
    capsys.readouterr()
    assert main(["train", f"start_from={start}", "model=mamba2_tiny", *options]) == 2
    assert capsys.readouterr().err.startswith(f"eyas: start_from={start} decides the model")
    assert main(["resume", start]) == 2
    assert f"eyas train start_from={start}" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_with_experts_is_drawn_and_drawn_anew_when_it_goes_on(place):
    short = [option for option in SMALL if not option.startswith("model.")]
    small = ["model=mixtral_tiny", "model.hidden_size=32", "model.pattern=[attn,moe]", "model.repeat=1"]
    small += ["model.layers.attn.head_dim=8", "model.layers.moe.intermediate_size=16"]
    process = eyas(place, "train", "data.files=text*.txt", *short, *small, "name=experts", "trainer.max_steps=3")
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    (folder,) = (place / "runs" / "experts").iterdir()
    assert f"Load and balance of its experts: runs/experts/{folder.name}/router.svg" in out
    assert "at last" in (folder / "router.svg").read_text()
    _, err = eyas(place, "resume", str(folder), "trainer.max_steps=5").communicate(timeout=240)
    points = re.search(r'points="([^"]*)"', (folder / "router.svg").read_text())[1]
    assert len(points.split()) == 5, err


def loss_before_training(start, tuned):
    """The loss of the imported model on the first batch that the tuned run saw."""
    from eyas.experiments.batches import Share, training_batches
    from eyas.experiments.generate import load_model
    from eyas.experiments.run_folder import open_run, read_data

    run = open_run(tuned)
    batch = training_batches(run.data, read_data(tuned), Share(run.trainer.global_batch), 1)[0]
    return load_model(start)(batch["tokens"], batch["labels"]).mean().item()
