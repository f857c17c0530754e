"""Input that cannot be honoured: one clear line, exit code 2, no process started and no folder made."""

import re
import shlex

import pytest
from command import eyas, write_corpus

from eyas.experiments import workers
from eyas.experiments.cli import main

TRAIN = {
    "mixer": ("layer@model.layers.ssm=mamba3", "mamba3.*did you mean 'mamba2'"),
    "kind": ("model.layers.ssm.kind=mamba3", r"model.layers.ssm.kind: unknown mixer 'mamba3'; did you mean 'mamba2'"),
    "kind alone": (
        "model.layers.ssm.kind=attention",
        "ssm: unknown option 'state_size'.*; another mixer .* is layer@model.layers.ssm=attention$",
    ),
    "place of a mixer": ("layer@model.layers.sm=mamba2", "unknown layer 'sm'; did you mean 'ssm'"),
    "tail": ("model.mtp_repeated=true", "mtp_repeated=true, but the pattern .* has no depths after '/'"),
    "model option": ("model.hidden_siz=3", "model.hidden_siz: .*did you mean 'hidden_size'"),
    "option elsewhere": ("max_steps=3", "max_steps: unknown option; did you mean 'trainer.max_steps'"),
    "group of an option": ("train.max_steps=3", "train.max_steps: unknown option; did you mean 'trainer.max_steps'"),
    "option of several": ("optimizer.vocab_size=3", "did you mean 'model.vocab_size' or 'data.vocab_size'"),
    "trainer option": ("trainer.max_step=3", "trainer.max_step: .*did you mean 'max_steps'"),
    "layer option": ("model.layers.ssm.d_stat=3", "model.layers.ssm.d_stat: unknown option 'd_stat'.*state_size"),
    "added option": ("+model.depth=3", "model: unknown option 'depth'"),
    "option of no group": ("modle.repeat=3", "modle.repeat: unknown option; did you mean 'model.repeat'"),
    "existing option added": ("+model.repeat=3", r"model.repeat exists already; leave the \+ away"),
    "existing layer added": ("+layer@model.layers.ssm=mlp", r"layer@model.layers.ssm is chosen already; leave the \+"),
    "text for a number": ("trainer.max_steps=abc", "trainer.max_steps: expected an integer, got 'abc'"),
    "fraction for an integer": ("trainer.max_steps=1.5", "trainer.max_steps: expected an integer, got 1.5"),
    "null for a layer": ("model.layers.ssm=null", "model.layers.ssm.kind is missing"),
    "null for a group": ("model=null", "'model=null' names no model"),
    "model": ("model=falcon_h2", "model=falcon_h2: unknown model 'falcon_h2'; did you mean 'falcon_h1_"),
    "experiment": ("experiment=quickstar", "experiment=quickstar: .*did you mean 'quickstart'"),
    "group": ("layr@model.layers.ssm=mamba2", "unknown group 'layr'; did you mean 'layer'"),
    "reference": ("trainer.max_steps=${model.depth}", r"\$\{model.depth\} names no option"),
    "no equals sign": ("seed", "'seed' cannot be read; write option=value"),
    "no option": ("=3", "'=3' names no option"),
    "unclosed bracket": ("model.pattern=[ssm", r"'model.pattern=\[ssm' opens or closes a bracket too often"),
    "sign in text": ("name=a{b", r"'name=a\{b' cannot be read; write \"name='a\{b'\" \(quotes that the shell"),
    "repeats without quotes": ("model.pattern=[ssm,ffn]x2", r"write \"model.pattern='\[ssm,ffn\]x2'\" \(quotes"),
    "list without brackets": ("model.pattern=ssm,ffn", r"several runs; write 'model.pattern=\[ssm,ffn\]', or add -m"),
    "choices of a layer": ("layer@model.layers.ssm=mamba2,mlp", "=mamba2,mlp are choices for several runs; add -m"),
    "place in another model": (
        "model=transformer_tiny layer@model.layers.ssm=mamba2",
        r"unknown layer 'ssm'; there are: attn, ffn; or add a new one with \+layer@model.layers.ssm=",
    ),
    "place beside a new one": (
        "+layer@model.layers.near=attention layer@model.layers.nera=mamba2",
        "unknown layer 'nera'; did you mean 'near'",
    ),
    "option of a block": (
        "model=hymba_tiny model.blocks.whole.combin=sum",
        "model.blocks.whole.combin: unknown option 'combin'; did you mean 'combine'",
    ),
    "new block": ("'model.blocks.b={layers:ffn}'", r"unknown block 'b'; there are: none; or add .* \+model.blocks.b="),
    "unknown flag": ("--fast", "eyas train does not know '--fast'; see eyas train --help"),
    "unknown view": ("--cfg jobs", "--cfg: invalid choice: 'jobs'"),
    "runs to go on from": (
        "experiment=upcycling",
        "start_from: there is no folder .*upcycling_dense_1; .*; first eyas train -m experiment=upcycling_dense$",
    ),
    "resolved without a view": ("--resolve", "--resolve says how --cfg prints; write eyas train --cfg job --resolve"),
    "view of a multirun": ("--cfg job -m seed=1,2", "--cfg runs nothing; leave out --multirun"),
    "Hydra's folder": ("hydra.run.dir=there", "'hydra.run.dir=there': run folders are named by runs and name"),
    "multirun": ("-m seed=1,2 model.hidden_siz=3", "model.hidden_siz: .*did you mean 'hidden_size'"),
    "attention heads": ("model.layers.attn.num_heads=3 layout.tensor=2", "num_kv_heads=2 must divide num_heads=3"),
    "heads over ranks": ("layout.tensor=3", "mamba2.num_heads=8 cannot be split over layout.tensor=3"),
    "machine": ("layout.data=512 trainer.global_batch=2048", "needs 512 processes, but this machine carries at most"),
    "batch": ("trainer.global_batch=10", "global batch of 10 .* use 8 or 12"),
    "sequence": ("layout=tensor2 data.sequence_length=255", "sequence length 255 cannot be split over layout.tensor=2"),
    "task": ("task.kind=classification", "task.kind: unknown task 'classification'; there are: copying"),
    "task without its data": ("task=mqar data=stdlib", "task mqar draws its own sequences, but data.source=text"),
    "data without its task": ("data=task", "data=task is what a task draws, but task=language_modelling reads text"),
    "length of a task": ("task=mqar data.sequence_length=32", "sequence_length=32, but task mqar decides it: 64"),
    "text of a task": ("task=mqar data.files=x", "data.files=x is about text, but the task draws its own sequences"),
    "recipe of text": ("experiment=quickstart task=mqar", "continues text; add data=task sample=none"),
    "sample of a task": ("task=mqar sample=python", "sample.prompt continues text; add sample=none"),
    "endless tests": ("task=mqar data.validation_sequences=null", "data.validation_sequences=null has no end"),
    "vocabulary of a task": ("task=mqar model.vocab_size=99", "model.vocab_size=99 is smaller than data.vocab_size"),
    "option of a task": ("task=mqar task.pair=3", "task.pair: unknown option 'pair'; did you mean 'pairs'"),
    "large task": ("task=mqar task.pairs=17", "task.pairs=17 and their questions need sequence_length=68 or more"),
    "split test": ("task=mqar layout=context2 task.eval_lengths=[130]", "length 130 cannot be split over the 4 pieces"),
    "precision": ("trainer.precision=float16", "trainer.precision: expected one of .*'bfloat16', got 'float16'"),
    "narrow gradients": ("trainer.gradients=bfloat16", "gradients=bfloat16 is narrower than the weights of precision="),
    "float64 state in parts": ("trainer.precision=float64 layout=data2", "float64 cannot be combined with layout.dist"),
    "dropout": ("model.dropout=1", "model.dropout=1.0 must be at least 0 and below 1"),
    "overlap": ("layout.overlap=true", "layout.overlap=true reduces gradients over replicas, but layout.data=1"),
    "dividing nothing": ("layout.distributed_optimizer=true", "optimizer's state over replicas, but layout.data=1"),
    "ramp": ("'trainer.batch_ramp={start: 3, increment: 4, steps: 9}'", "batch_ramp.start=3 does not grow to global"),
    "stages": ("layout.pipeline=7 trainer.global_batch=28", "layout.pipeline=7 stages cannot share 6 blocks"),
    "list of stages": ("layout.pipeline=2 layout.stages=[3,4]", r"layout.stages=\[3, 4\] divides 7 blocks, .* has 6"),
    "way of cutting": ("layout.pipeline=2 layout.stages=even", "layout.stages: expected a list .* or one of 'auto'"),
    "turns of stages": ("layout=pipeline2_interleaved trainer.global_batch=12", "of layout.pipeline=2, .* 2 or 4"),
    "sample's length": ("sample.tokens=0", "sample.tokens=0 must be at least 1"),
    "sample's temperature": ("sample.temperature=-0.5", "temperature=-0.5 must be a number of at least 0"),
    "sample's choice": ("sample.top_k=0", "top_k=0 must be at least 1, or null"),
    "shared block over stages": ("model=zamba2_tiny layout.pipeline=2", "shared block 'attend' stands on stages 0, 1"),
    "block option": ("model=zamba2_tiny model.blocks.think.reads=side", "model.blocks.think.reads: expected one of"),
    "meta tokens": ("model=hymba_tiny layout=tensor2 data.sequence_length=65", "65 behind 16 meta tokens cannot be"),
    "dispatcher without experts": ("layout.data=2 layout.dispatcher=allgather", "every process has all experts whole"),
    "experts over ranks": (
        "model=mixtral_tiny layout.data=3 layout.expert=3 trainer.global_batch=12",
        "num_experts=8 cannot be split over layout.expert=3",
    ),
    "experts' grid": ("model=mixtral_tiny layout=tensor2 layout.expert=2", "does not divide the 2 processes"),
    "packed meta tokens": ("model=hymba_tiny data.documents=packed", "=packed, but model.meta_tokens stand in front"),
    "packed with a capacity": (
        "model=mixtral_tiny model.layers.moe.capacity_factor=1.0 data.documents=isolated",
        "data.documents=isolated, but model.layers.moe .* cannot keep documents apart",
    ),
    "manner of documents": ("data.documents=mixed", "data.documents: expected one of 'joined', 'isolated', 'packed'"),
    "sample of tokens": ("data.files=x.bin sample=python", "the tokens have no data.tokenizer; give it"),
    "blend": (
        "'data.blend={a:{weight:0.5,files:x},b:{weight:0.6,files:y}}'",
        r"data.blend: the weights are 0.5 \+ 0.6 = 1.1, but shares are 1 together; mend them",
    ),
    "part of a blend": (
        "'data.blend={a:{weight:0.5,files:\"texts/*\"},b:{weight:0.5,files:none.txt}}' data.vocab_size=262",
        "data.blend.b.files=none.txt matches no file",
    ),
    "no tokenizer": ("data.tokenizer=nowhere.json", "there is no tokenizer at nowhere.json"),
    "text for a tokenizer": ("data.tokenizer=texts/0.txt", "texts/0.txt is no tokenizer.json that the tokenizers"),
    "context parallel": ("layout.context=3", "length 256 cannot be split over the 6 pieces of layout.context=3; use a"),
    "order of no pieces": ("layout.context_order=contiguous", "layout.context=1; set layout.context=2 or more, or"),
    "heads over context ranks": (
        "layout.context=3 layout.context_exchange=alltoall data.sequence_length=252",
        "layers.ssm: mamba2.num_heads=8 leaves 8 to each of layout.tensor=1 ranks, which layout.context=3 ranks",
    ),
    "exchange without heads": (
        "layer@model.layers.ssm=mamba1 layer@model.layers.attn=mamba1 layout.context=2 "
        "layout.context_exchange=alltoall",
        "exchanges heads, but no layer",
    ),
    "experts' kernel": (
        "model=mixtral_tiny model.layers.moe.kernel=transformer_engine",
        r"model.layers.moe \(moe\): kernel=transformer_engine needs a GPU, and there is none here; choose auto",
    ),
    "scan's kernel": ("model.layers.ssm.kernel=mamba_ssm", r"layers.ssm \(mamba2\): kernel=mamba_ssm needs a GPU"),
    "expert parallel": ("layout.data=2 layout.expert=2", "layout.expert=2 is about experts, and the model has none"),
    "recomputing nothing": (
        "'layout.recompute=[ssm,moe]'", "layout.recompute: 'moe' is nothing that this model has; choose among attention"
    ),
    "no tokens in a chunk": ("layout.loss_chunk=0", "layout.loss_chunk=0 must be a whole number of at least 1"),
    "offloading more than all": ("optimizer.cpu_offload=2", "optimizer.cpu_offload=2.0 must be a share from 0 to 1"),
    "offloading from no GPU": ("optimizer.cpu_offload=1", "keeps moments of a GPU's weights on the host, but"),
    "warm-up": ("trainer.max_steps=50 schedule.warmup_steps=60", "warmup_steps=60 is longer than the run of 50"),
    "small embedding": ("model.vocab_size=100", "model.vocab_size=100 is smaller than data.vocab_size=4096"),
    "no files": ("data=files", "data.files is empty; give a glob"),
    "empty glob": ("data=files data.files=nothing/*.txt", r"data.files=nothing/\*.txt matches no file"),
    "missing file": ("data=files data.files=missing.txt", "data.files=missing.txt matches no file"),
    "not UTF-8": ("data=files data.files=binary/*", "binary/0.txt is not UTF-8 at byte 2"),
    "large vocabulary": ("data=files data.files=texts/* data.vocab_size=4096", "data.vocab_size=4096 is more than"),
    "short text": ("data=files data.files=texts/* data.vocab_size=262 data.sequence_length=9999", "fewer than"),
}  # fmt: skip
PATTERNS = {
    "unknown layer": ("model.pattern=[ssm+attn,fn]", "unknown layer 'fn'; did you mean 'ffn'", "fn"),
    "unknown letter": ("model.pattern=M-X", "unknown symbol 'X'", "X"),
    "stray sign": ("'model.pattern=\"ssm, attn; ffn\"'", "';'", ";"),
}
OTHERS = {
    "command": ("trian", "unknown command 'trian'; did you mean 'train'.$"),
    "no command": ("", "required: command"),
    "resume nothing": ("resume nothing", "there is no folder nothing; eyas results runs lists"),
    "resume without a checkpoint": ("resume unfinished", "unfinished has no complete checkpoint"),
    "resume with another model": (
        "resume unfinished model.repeat=3",
        "'model.repeat=3' cannot be changed when resuming",
    ),
    "results of an empty folder": ("results texts", "there is no run in texts"),
    "results of nothing": ("results nothing", "there is no folder nothing"),
    "generate from nothing": ("generate nothing", "there is no folder nothing; eyas results runs lists"),
    "generate from texts": ("generate texts", "texts is no run folder, and has none in it"),
    "likeliest of a share": ("generate unfinished --greedy --top-p 0.5", "leave out --top-k and --top-p"),
    "likeliest by temperature": ("generate unfinished --temperature 0 --top-k 5", "leave out --top-k and --top-p"),
    "likeliest and drawn": ("generate unfinished --greedy --temperature 1", "not allowed with argument --greedy"),
    "draw from nothing": ("generate unfinished --top-p 0", "top_p=0.0 must be above 0 and at most 1"),
    "fewer tokens than none": ("generate unfinished --tokens -1", "tokens=-1 must not be negative"),
    "prefix of two": ("generate unfinished --prompt a --prompt b --save-prefix c", "one prompt, and there are 2"),
    "speculation on draws": ("generate unfinished --speculate", "add --greedy, or leave out --speculate"),
    "speculation from a prefix": ("generate unfinished --greedy --speculate --from-prefix p", "leave out prefixes"),
    "generate without a checkpoint": ("generate unfinished", "unfinished has no complete checkpoint"),
    "mixer without a name": ("new-mixer", "required: name"),
    "mixer with a name that is none": ("new-mixer 3d-conv", "'3d-conv' cannot name a mixer"),
    "mixer with a name in capitals": ("new-mixer GatedDelta", "'GatedDelta' cannot name a mixer"),
    "mixer that exists": ("new-mixer mamba2", "mixer 'mamba2' is registered already, by eyas-layers"),
    "mixer called like a package": ("new-mixer layers", "a package eyas-layers is installed already"),
    "mixer called like a keyword": ("new-mixer none", "'none' would call its class None, which is taken"),
    "mixer called like a base class": ("new-mixer mixer-config", "its class MixerConfig, which is taken"),
    "folder that exists": ("new-mixer texts", "texts exists already"),
    "folder that cannot be": ("new-mixer gated --folder texts/0.txt/x", "texts/0.txt/x cannot be written"),
    "symbol that exists": ("new-mixer gated --symbol M", "symbol 'M' belongs to 'mamba2' of eyas-layers"),
    "symbol that is none": ("new-mixer gated --symbol 3", "a symbol is one capital letter other than P"),
    "group that is not added": (
        "train 'optimizer.groups={slow: {parts: [ssm]}}'",
        "optimizer.groups exists, but lacks what it is given; add that",
    ),
    "flag of another command": ("layers --dry-run", "eyas layers does not know '--dry-run'"),
}


@pytest.fixture
def refused(tmp_path, monkeypatch, capsys):
    """Runs a command line in a folder with some input; returns what it says on its way to exit code 2."""

    def start(*arguments, **options):
        raise AssertionError("workers were started")

    write_corpus(tmp_path)
    (tmp_path / "binary").mkdir()
    (tmp_path / "binary" / "0.txt").write_bytes(b"ab\xff\xfe")
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.yaml").write_text(UNFINISHED)
    before = {*tmp_path.iterdir()}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EYAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(workers, "launch", start)

    def run(line: str) -> list[str]:
        try:
            code = main(shlex.split(line))
        except SystemExit as end:
            code = end.code
        said = capsys.readouterr()
        assert code == 2, said.err
        assert said.out == ""
        assert {*tmp_path.iterdir()} - {tmp_path / "cache"} == before
        return said.err.splitlines()

    return run


UNFINISHED = """
model:
  hidden_size: 8
  vocab_size: 4096
  pattern: [ffn]
  layers: {ffn: {kind: mlp}}
"""


def assert_one_line(said, expected):
    (line,) = said
    assert line.startswith("eyas: ")
    assert re.search(expected, line), line


@pytest.mark.parametrize(("overrides", "expected"), TRAIN.values(), ids=TRAIN)
def test_training_that_cannot_be_is_refused_in_one_line(refused, overrides, expected):
    assert_one_line(refused(f"train {shlex.join(shlex.split(overrides))}"), expected)


DATA = (
    "no files", "empty glob", "not UTF-8", "large vocabulary", "short text", "part of a blend", "no tokenizer",
)  # fmt: skip


@pytest.mark.parametrize("case", DATA)
def test_a_dry_run_refuses_the_data_that_training_refuses(refused, case):
    overrides, expected = TRAIN[case]
    assert_one_line(refused(f"train --dry-run {shlex.join(shlex.split(overrides))}"), expected)


@pytest.mark.parametrize(("line", "expected"), OTHERS.values(), ids=OTHERS)
def test_command_that_cannot_be_is_refused_in_one_line(refused, line, expected):
    assert_one_line(refused(line), expected)


@pytest.mark.parametrize(("override", "expected", "fault"), PATTERNS.values(), ids=PATTERNS)
def test_caret_stands_under_the_fault_of_a_pattern(refused, override, expected, fault):
    line, pattern, carets = refused(f"train {override}")
    assert_one_line([line], expected)
    start = carets.index("^")
    assert pattern[start : start + carets.count("^")] == fault


def test_terminal_shows_one_line(tmp_path):
    run = eyas("train", "model.hidden_siz=3", folder=tmp_path)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == "eyas: model.hidden_siz: unknown option 'hidden_siz'; did you mean 'hidden_size'?\n"
    assert not [*tmp_path.iterdir()]


PLUGINS = {
    "absent": (None, r"eyas_broken"),
    "syntax": ("import math\n\ndef f(:\n", r"eyas_broken.py, line 3: invalid syntax"),
    "undefined name": ("import math\nx = math.pi + y\n", r"eyas_broken.py, line 2: NameError: name 'y' is not defined"),
    "missing package": (
        "import math\nimport missing\n",
        r"eyas_broken.py, line 2: ModuleNotFoundError: No module named",
    ),
    "no such class": ("x = 1\n", r"has no attribute 'Broken'"),
}


@pytest.mark.parametrize(("module", "expected"), PLUGINS.values(), ids=PLUGINS)
def test_plugin_that_does_not_load_is_named(tmp_path, module, expected):
    broken = tmp_path / "eyas_broken-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: eyas-broken\nVersion: 1.0\n")
    (broken / "entry_points.txt").write_text("[eyas.mixers]\nbroken = eyas_broken:Broken\n")
    if module is not None:
        (tmp_path / "eyas_broken.py").write_text(module)
    run = eyas("layers", folder=tmp_path, PYTHONPATH=str(tmp_path))
    assert (run.returncode, run.stdout) == (2, "")
    assert_one_line(run.stderr.splitlines(), f"mixer 'broken' of eyas-broken does not load .*{expected}.*remove it")
