"""A run on lm-eval's tasks: what it says is what the model's own logits say."""

import json
import shutil

import pytest
import torch
import yaml

from eyas.core.schema import dump
from eyas.experiments import run_folder
from eyas.experiments.cli import main
from eyas.experiments.generate import generate, load_model
from eyas.experiments.run_config import load_run
from eyas.experiments.run_records import read_run
from eyas.experiments.tokenizer import load_tokenizer, train_tokenizer
from eyas.layers.model import HybridLM
from eyas.layers.sampling import Sampling

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance  # noqa: E402

from eyas.experiments.eval import evaluation  # noqa: E402
from eyas.experiments.eval.run_model import RunLM  # noqa: E402

TEXTS = ["falcons hunt from the fist", "a hood calms the falcon", "the jesses are of leather"] * 20
VOCABULARY = 280
MODEL = {
    "hidden_size": 16, "vocab_size": VOCABULARY, "pattern": "[ssm+attn, ffn]", "init_std": 0.3,
    "layers": {
        "ssm": {"kind": "mamba2", "num_heads": 2, "head_dim": 8, "state_size": 4},
        "attn": {"kind": "attention", "num_heads": 2, "num_kv_heads": 1, "head_dim": 8},
        "ffn": {"kind": "mlp", "intermediate_size": 24},
    },
}  # fmt: skip
PAIRS = [("falcons hunt", " from the fist"), ("", "a hood"), ("the jesses ", "are"), ("a", " falcon calms the hood of")]
TOLERANCE = 1e-4
"""Nats; sums of a few float32 losses around 6."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder with drawn weights large enough that the model prefers something."""
    from eyas.parallel import checkpoint, quiet
    from eyas.parallel.alone import alone

    place = tmp_path_factory.mktemp("evaluated")
    config = load_run({"runs": str(place), "model": MODEL, "data": {"vocab_size": VOCABULARY}})
    folder = run_folder.claim(place / "run", dump(config))
    train_tokenizer(iter(TEXTS), VOCABULARY).save(str(folder / run_folder.TOKENIZER))
    quiet.install()
    model = HybridLM(config.spec).initialise(1)
    with alone():
        weights = checkpoint.sharded_weights(model)
        checkpoint.save({"model": weights}, folder / run_folder.CHECKPOINTS / "step-00000005")
    run_folder.write_metrics(folder, {"steps": 5, "validation_loss": 5.0})
    run_folder.write_status(folder, "finished")
    return folder


@pytest.fixture(scope="module")
def model(run):
    return load_model(run)


@pytest.fixture(scope="module")
def tokens(run):
    tokenizer = load_tokenizer(run / run_folder.TOKENIZER)
    return lambda text: tokenizer.encode(text).ids


def requests(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=given, idx=0) for given in arguments]


def by_hand(model, given, wanted):
    """Log-probability of the wanted tokens from the logits of one text alone, and whether each is the likeliest."""
    with torch.inference_mode():
        logits_SV = model(torch.tensor([[*given, *wanted]]))[:, 0].double()
    log_SV = logits_SV[len(given) - 1 : -1].log_softmax(-1)
    picked = log_SV[torch.arange(len(wanted)), torch.tensor(wanted)]
    return float(picked.sum()), bool((log_SV.argmax(-1) == torch.tensor(wanted)).all())


def test_loglikelihood_is_the_models_own(run, model, tokens):
    found = RunLM(run, batch=3).loglikelihood(requests("loglikelihood", *PAIRS))
    end = [0]
    for (context, continuation), (score, likeliest) in zip(PAIRS, found, strict=True):
        bare = context.rstrip()
        given = tokens(bare)
        wanted = tokens(bare + context[len(bare) :] + continuation)[len(given) :]
        expected, expected_likeliest = by_hand(model, [*end, *given], wanted)
        assert score == pytest.approx(expected, abs=TOLERANCE)
        assert likeliest is expected_likeliest


def test_figures_are_kept_for_the_checkpoint_that_was_asked(run, falconry, cached, monkeypatch, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    ask = evaluation.asked

    def while_it_trains(*arguments):
        shutil.copytree(folder / "checkpoints" / "step-00000005", folder / "checkpoints" / "step-00000009")
        return ask(*arguments)

    monkeypatch.setattr(evaluation, "asked", while_it_trains)
    evaluation.evaluate(folder, ["falconry"], include=falconry)
    assert json.loads((folder / "eval.json").read_text())["step"] == 5


def test_the_likeliest_continuation_is_told_from_others(run, model, tokens):
    first = int(model(torch.tensor([[0, *tokens("a hood")]]))[-1, 0].argmax())
    lm = RunLM(run)
    asked = [(("a hood", "?"), tokens("a hood"), [token]) for token in (first, (first + 1) % VOCABULARY)]
    assert [likeliest for _, likeliest in lm._loglikelihood_tokens(asked)] == [True, False]


def test_a_whole_text_is_scored_from_its_first_token(run, model, tokens):
    (found,) = RunLM(run).loglikelihood_rolling(requests("loglikelihood_rolling", (TEXTS[0],)))
    assert found == pytest.approx(by_hand(model, [0], tokens(TEXTS[0]))[0], abs=TOLERANCE)
    assert RunLM(run).loglikelihood_rolling(requests("loglikelihood_rolling", ("",))) == [0]


def test_a_longer_text_than_may_be_read_is_scored_in_parts(run, model, tokens):
    longest, text = 6, " ".join(TEXTS[:3])
    whole = tokens(text)
    (found,) = RunLM(run, longest=longest).loglikelihood_rolling(requests("loglikelihood_rolling", (text,)))
    parts = [([0, *whole[: longest - 1]], whole[longest - 1 : longest])]
    expected = by_hand(model, [0], whole[:longest])[0]
    for start in range(longest, len(whole), longest):
        wanted = whole[start : start + longest]
        parts.append((whole[start - 1 : start], wanted))
        expected += by_hand(model, whole[start - 1 - (longest - len(wanted)) : start], wanted)[0]
    assert len(parts) > 2
    assert found == pytest.approx(expected, abs=TOLERANCE)


def test_the_latest_tokens_are_read_where_not_all_may_be(run, model, tokens):
    context, continuation = "falcons hunt from the fist", " a hood"
    given, longest = tokens(context), 9
    wanted = tokens(context + continuation)[len(given) :]
    ((found, _),) = RunLM(run, longest=longest).loglikelihood(requests("loglikelihood", (context, continuation)))
    room = longest - len(wanted)
    assert 0 < room < len(given)
    assert found == pytest.approx(by_hand(model, [0, *given[-room:]], wanted)[0], abs=TOLERANCE)


def test_continuations_are_those_of_eyas_generate(run):
    contexts = ["falcons hunt", "a hood calms", "the"]
    options = {"until": ["e"], "max_gen_toks": 12, "do_sample": False}
    found = RunLM(run, batch=2).generate_until(requests("generate_until", *((text, options) for text in contexts)))
    expected = generate(run, contexts, tokens=12, sampling=Sampling(temperature=0), stop=["e"]).texts
    assert [context + text for context, text in zip(contexts, found, strict=True)] == expected


def test_samples_of_one_request_differ_whatever_the_batch(run):
    options = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.0}
    asked = requests("generate_until", *([("falcons hunt", options)] * 6))
    by_two, by_three = (RunLM(run, batch=batch).generate_until(asked) for batch in (2, 3))
    assert by_two == by_three
    assert len(set(by_two)) > 3


QUESTIONS = [
    {"question": "falcons hunt from the", "choices": ["fist", "hood of leather", "jesses"]},
    {"question": "a hood calms the", "choices": ["fist from", "falcon", "a a a"]},
    {"question": "the jesses are of", "choices": ["leather", "hunt", "the fist"]},
    {"question": "the falcon", "choices": ["hunts", "calms", "jesses"]},
]
TASK = {
    "task": "falconry", "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
    "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}",
    "target_delimiter": " ", "metadata": {"version": 2},
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip


@pytest.fixture(scope="module")
def falconry(tmp_path_factory, model, tokens):
    """A folder with a task whose answers the model has right in all questions but the last, and those questions."""
    place = tmp_path_factory.mktemp("falconry")
    lines = []
    for number, question in enumerate(QUESTIONS):
        given = tokens(question["question"])
        wholes = [tokens(f"{question['question']} {choice}")[len(given) :] for choice in question["choices"]]
        scores = [by_hand(model, [0, *given], wanted)[0] for wanted in wholes]
        best = scores.index(max(scores))
        lines.append({**question, "answer": best if number < len(QUESTIONS) - 1 else (best + 1) % 3})
    (place / "questions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = {"data_files": {"test": str(place / "questions.jsonl")}}
    (place / "falconry.yaml").write_text(yaml.safe_dump(TASK | {"dataset_kwargs": data}))
    gone = {"task": "gone", "dataset_kwargs": {"data_files": {"test": str(place / "gone.jsonl")}}}
    (place / "gone.yaml").write_text(yaml.safe_dump(TASK | gone))
    fixed = {"task": "fixed", "dataset_kwargs": data, "num_fewshot": 0}
    (place / "fixed.yaml").write_text(yaml.safe_dump(TASK | fixed))
    return place


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """The datasets library copies what it reads; here."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)


def test_a_tasks_accuracy_is_the_one_counted_by_hand(run, falconry, cached, capfd):
    assert main(["eval", str(run), "--tasks", "falconry", "--include", str(falconry)]) == 0
    out, err = capfd.readouterr()
    assert "falconry" in out and "0.7500" in out and f"Kept in {run / 'eval.json'}" in out.replace("\n", "")
    assert err == ""
    kept = json.loads((run / "eval.json").read_text())
    assert kept["metrics"]["falconry"]["acc"] == 0.75
    assert kept["tasks"]["falconry"] == {"version": 2, "shots": 0, "samples": 4, "limit": None, "max_length": None}
    assert main(["eval", str(run), "--tasks", "falconry", "--include", str(falconry), "--limit", "3"]) == 0
    assert read_run(run).metrics == {
        "steps": 5, "validation_loss": 5.0, "falconry/acc": 1.0, "falconry/acc_stderr": 0.0,
    }  # fmt: skip
    run_folder.write_metrics(run, {"steps": 9})
    assert read_run(run).metrics == {"steps": 9}, "what an earlier checkpoint was found to do is not the run's end"
    run_folder.write_metrics(run, {"steps": 5, "validation_loss": 5.0})


REFUSED = {
    "unknown task": (("--tasks", "falconri"), "unknown task 'falconri'"),
    "no data": (("--tasks", "gone"), "--tasks=gone: the data cannot be had"),
    "no examples": (("--tasks", "fixed", "--shots", "2"), "task fixed is always asked without examples"),
    "no room": (("--tasks", "falconry", "--max-length", "1"), "--max-length=1 leaves no token of a text"),
    "no limit": (("--tasks", "falconry", "--limit", "0"), "--limit=0 must be at least 1"),
}


@pytest.mark.parametrize(("options", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_asked_is_said_in_a_line(run, falconry, cached, capsys, monkeypatch, options, message):
    from lm_eval.tasks import TaskManager

    alone = TaskManager.__init__  # its own fourteen thousand tasks take long to read
    monkeypatch.setattr(
        TaskManager, "__init__", lambda self, **given: alone(self, **{**given, "include_defaults": False})
    )
    assert main(["eval", str(run), "--include", str(falconry), *options]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_without_lm_eval_the_command_says_how_to_install_it(run, monkeypatch, capsys):
    monkeypatch.setattr("eyas.experiments.eval.evaluation.find_spec", lambda name: None)
    assert main(["eval", str(run), "--tasks", "falconry"]) == 2
    assert capsys.readouterr().err == (
        "eyas: eyas eval asks the tasks of lm_eval, which is not installed; pip install 'eyas-experiments[eval]'\n"
    )
