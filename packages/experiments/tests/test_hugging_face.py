"""Models from transformers and back to it, as folders: nothing is lost, and what cannot be kept to is refused."""

import json
import shutil
import weakref

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import processors

from eyas.core.accounting import parameters
from eyas.core.errors import CheckpointError, ConfigError, DataError
from eyas.core.model import load_model as load_spec
from eyas.experiments import hf_folder, run_folder
from eyas.experiments.export_hf import export_hf
from eyas.experiments.generate import generate, load_model
from eyas.experiments.import_hf import import_hf
from eyas.experiments.model_group import model_group
from eyas.experiments.run_tokenizer import open_tokenizer
from eyas.experiments.tokenizer import entries, load_tokenizer, train_tokenizer
from eyas.layers.decoding import decode, read
from eyas.layers.hf_families import FAMILIES, family_of_model
from eyas.layers.hf_options import from_json, model_data
from eyas.layers.hf_tensors import correspondences
from eyas.layers.rope_scaling import RopeScaling
from eyas.layers.sampling import Sampling

transformers = pytest.importorskip("transformers")
from hf_full_models import FULL, LIMITED  # noqa: E402
from hf_models import DRAWN, their_model  # noqa: E402

WITHOUT_SHRINKING = [Phase.explicit, Phase.reuse, Phase.generate]
TEXTS = ["falcons hunt from the fist", "a hood calms the falcon"] * 20
VOCABULARY = 280


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("hugging_face")


LLAMA = transformers.LlamaConfig(
    hidden_size=32, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    initializer_range=0.1, eos_token_id=0,
)  # fmt: skip


def saved_model(folder, drawn=(transformers.LlamaForCausalLM, LLAMA), **options):
    """A model of transformers' and a tokenizer that begins texts with a token of its own, on disk. Without a class that
    is named, transformers takes the tokenizer that usually goes with a model, which may begin texts otherwise."""
    drawn[1].vocab_size = VOCABULARY
    model = their_model(drawn, seed=0)
    model.save_pretrained(folder, **options)
    tokenizer = train_tokenizer(iter(TEXTS), VOCABULARY - 1)
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", VOCABULARY - 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    return model


@pytest.fixture(scope="module")
def llama(place):
    folder = place / "llama"
    folder.mkdir()
    return folder, saved_model(folder)


def greedy(folder, prompt, tokens, use_cache=False):
    """The tokens that transformers continues a prompt with, from the folder alone; its cache wants attention in every
    model."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer(prompt, return_tensors="pt").input_ids
    output = model.generate(inputs, max_new_tokens=tokens, do_sample=False, use_cache=use_cache)
    return output[0, inputs.shape[1] :].tolist()


def our_greedy(run, prompt, tokens):
    """The tokens that our own decoding continues a prompt with."""
    texts, model = open_tokenizer(run), load_model(run)
    with torch.no_grad():
        (continuation,) = decode(
            model, read(model, ()), [texts.begun(texts.encode(prompt))], tokens=tokens, seed=0,
            sampling=Sampling(temperature=0.0), ends=lambda new: new[-1] in texts.ends,
            vocab_size=entries(texts.tokenizer),
        )  # fmt: skip
    return continuation


def there_and_back(place, name, drawn):
    """A model of transformers' on disk, the run it is imported to, and the folder that is exported from there, which
    holds the same weights and computes the same logits as both."""
    folder, back = place / f"{name}-there", place / f"{name}-back"
    for old in place.glob(f"{name}-*"):
        shutil.rmtree(old)
    folder.mkdir()
    theirs = saved_model(folder, drawn).eval()
    run = import_hf(folder, name, place / "runs")
    export_hf(run, back)
    expected, actual = load_file(folder / hf_folder.WEIGHTS), load_file(back / hf_folder.WEIGHTS)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[key], expected[key]) for key in expected)
    assert (back / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert len({file.stat().st_mode for file in back.iterdir()}) == 1, "some files can be read by fewer than others"
    loaded = transformers.AutoModelForCausalLM.from_pretrained(back).eval()
    assert type(loaded) is type(theirs)
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        logits = loaded(tokens, use_cache=False).logits
        torch.testing.assert_close(logits, theirs(tokens, use_cache=False).logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(load_model(run)(tokens).transpose(0, 1), logits, rtol=1e-4, atol=1e-4)
    return folder, run, back


@pytest.mark.slow
@pytest.mark.parametrize("name", DRAWN)
@settings(max_examples=10, phases=WITHOUT_SHRINKING)
@given(data=st.data())
def test_importing_and_exporting_gives_the_same_model(place, name, data):
    there_and_back(place, name, data.draw(DRAWN[name]))


@pytest.mark.parametrize("name", FULL)
def test_a_model_with_all_of_a_family_goes_on_with_the_same_tokens(place, name):
    """Token by token, in transformers with and without its cache, before and after the export."""
    folder, run, back = there_and_back(place, f"full-{name}", FULL[name]())
    prompt = "a falcon hunts from the fist"
    tokens = our_greedy(run, prompt, 24)
    assert len(tokens) == 24 and len(set(tokens)) > 10
    assert tokens == greedy(folder, prompt, 24) == greedy(back, prompt, 24)
    assert (tokens == greedy(back, prompt, 24, use_cache=True)) == (name not in LIMITED)
    text = generate(run, [prompt], tokens=24, sampling=Sampling(temperature=0.0)).texts[0]
    tokenizer = load_tokenizer(back)
    assert text == tokenizer.decode([*tokenizer.encode(prompt).ids, *tokens])


@pytest.mark.parametrize("first", ["<s>", ""])
@pytest.mark.parametrize("prompt", ["a falcon hunts", "a falcon<s>a hood"])
def test_a_text_begins_and_ends_as_it_does_in_transformers(place, first, prompt):
    """With a token before it or none, special tokens in it, and several that end it."""
    folder = place / "around"
    for old in place.glob("around*"):
        shutil.rmtree(old)
    folder.mkdir()
    saved_model(folder, FULL["qwen2_moe"]())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["post_processor"] = tokenizer["post_processor"] if first else None
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    last = greedy(folder, prompt, 12)[7]
    with_option(folder, eos_token_id=[0, last])
    (folder / hf_folder.GENERATION_CONFIG).write_text(json.dumps({"eos_token_id": [0, last]}))
    run = import_hf(folder, "around", place / "runs")
    export_hf(run, place / "around-back")
    tokens = our_greedy(run, prompt, 12)
    assert tokens == greedy(folder, prompt, 12) == greedy(place / "around-back", prompt, 12)
    assert tokens[-1] == last and len(tokens) <= 8
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    text = generate(run, [prompt], tokens=12, sampling=Sampling(temperature=0.0)).texts[0]
    assert text == theirs.decode([*theirs(prompt).input_ids, *tokens[:-1]], skip_special_tokens=True)


def test_a_token_behind_a_text_is_refused(place, llama):
    folder = damaged(place, llama, "closed")
    tokenizer = load_tokenizer(folder)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A <s>", special_tokens=[("<s>", VOCABULARY - 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(DataError, match="puts 1 tokens around a text; one, before it, can be kept to"):
        import_hf(folder, "refused", place / "runs")


def with_further_layer(folder):
    """Puts DeepSeek-V3's layer for a further token behind a model of two: the last but for its own tensors."""
    tensors = load_file(folder / hf_folder.WEIGHTS)
    last, behind, width = "model.layers.1.", "model.layers.2.", tensors["model.norm.weight"].numel()
    found = {name.replace(last, behind): tensor.clone() for name, tensor in tensors.items() if name.startswith(last)}
    found |= {f"{behind}{name}.weight": torch.rand(width) for name in ("enorm", "hnorm", "shared_head.norm")}
    found[f"{behind}eh_proj.weight"] = torch.rand(width, 2 * width) / width
    found[f"{behind}embed_tokens.weight"] = tensors["model.embed_tokens.weight"].clone()
    found[f"{behind}shared_head.head.weight"] = tensors["lm_head.weight"].clone()
    save_file(tensors | found, folder / hf_folder.WEIGHTS, {"format": "pt"})
    return found.keys()


def test_a_layer_for_a_further_token_is_kept_or_left_out_by_choice(place, capsys):
    config = transformers.DeepseekV3Config(
        hidden_size=32, num_attention_heads=2, num_key_value_heads=2, q_lora_rank=None, kv_lora_rank=8,
        qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=8, num_hidden_layers=2, first_k_dense_replace=1,
        intermediate_size=40, moe_intermediate_size=16, n_routed_experts=4, num_experts_per_tok=2, n_group=1,
        topk_group=1, initializer_range=0.1, tie_word_embeddings=False, eos_token_id=0,
    )  # fmt: skip
    folder = place / "further"
    folder.mkdir()
    saved_model(folder, (transformers.DeepseekV3ForCausalLM, config))
    further = with_further_layer(folder)
    expected = load_file(folder / hf_folder.WEIGHTS)

    run = import_hf(folder, "further", place / "runs")
    export_hf(run, place / "further-back")
    actual = load_file(place / "further-back" / hf_folder.WEIGHTS)
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    tokens = greedy(place / "further-back", "a falcon", 8)
    assert tokens == our_greedy(run, "a falcon", 8)
    assert hf_folder.read_config(place / "further-back")["num_nextn_predict_layers"] == 1

    capsys.readouterr()
    run = import_hf(folder, "plain", place / "runs", without_mtp=True)
    export_hf(run, place / "plain-back")
    said = f"Left out: {len(further)} tensors that predict further tokens (model.layers.2.*)"
    assert said in capsys.readouterr().out
    assert load_file(place / "plain-back" / hf_folder.WEIGHTS).keys() == expected.keys() - further
    assert hf_folder.read_config(place / "plain-back")["num_nextn_predict_layers"] == 0
    assert tokens == our_greedy(run, "a falcon", 8) == greedy(place / "plain-back", "a falcon", 8)


def test_leaving_out_layers_that_are_not_there_is_refused(place, llama):
    with pytest.raises(ConfigError, match="no layers that predict further tokens; leave it out"):
        import_hf(llama[0], "nothing", place / "runs", without_mtp=True)
    assert not (place / "runs" / "nothing").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_bit_by_bit_while_it_holds_the_weights(place, llama, dtype):
    folder, _ = llama
    half, norm = place / f"{dtype}", "model.norm.weight"
    shutil.copytree(folder, half)
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / hf_folder.WEIGHTS).items()}
    save_file(tensors | {norm: tensors[norm].float()}, half / hf_folder.WEIGHTS, {"format": "pt"})
    run = import_hf(half, "half", place / "runs")
    export_hf(run, place / f"{dtype}-back")
    found = load_file(place / f"{dtype}-back" / hf_folder.WEIGHTS)
    assert found.keys() == tensors.keys()
    for name, tensor in found.items():
        assert tensor.dtype == (torch.float32 if name == norm else dtype)
        assert torch.equal(tensor, tensors[name].to(tensor.dtype))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(place / f"{dtype}-back")
    assert loaded.dtype == dtype

    family, spec = FAMILIES["llama"], run_folder.open_run(run).spec
    table, weights = correspondences(family, spec), load_model(run).state_dict()
    read = hf_folder.tensor_types([half / hf_folder.WEIGHTS])
    assert set(hf_folder.types_to_write(table, weights, read).values()) == {torch.float32, dtype}
    weights["embedding.weight"][0, 0] = 1 / 3
    assert set(hf_folder.types_to_write(table, weights, read).values()) == {torch.float32}


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(place, llama):
    folder = damaged(place, llama, "longer-tokenizer")
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["falconry"])
    tokenizer.save(str(folder / "tokenizer.json"))
    with pytest.raises(DataError, match=r"has 281 tokens, and the model 280 \(vocab_size in config.json\)"):
        import_hf(folder, "refused", place / "runs")


def test_shards_are_read_a_tensor_at_a_time(place, monkeypatch):
    folder = place / "shards"
    folder.mkdir()
    saved_model(folder, max_shard_size="20KB")
    assert len(list(folder.glob("*.safetensors"))) > 2
    living, most = [], 0

    def counted(read):
        def get_tensor(self, name):
            nonlocal most
            tensor = read(self, name)
            living.append((weakref.ref(tensor), tensor.nbytes))
            most = max(most, sum(size for reference, size in living if reference() is not None))
            return tensor

        return get_tensor

    class Counting:
        def __init__(self, *arguments):
            self.inner = hf_safe_open(*arguments)

        def __enter__(self):
            self.stored = self.inner.__enter__()
            return self

        def __exit__(self, *error):
            return self.inner.__exit__(*error)

        def keys(self):
            return self.stored.keys()

        def get_slice(self, name):
            return self.stored.get_slice(name)

        @counted
        def get_tensor(self, name):
            return self.stored.get_tensor(name)

    hf_safe_open = hf_folder.safe_open
    monkeypatch.setattr(hf_folder, "safe_open", Counting)
    run = import_hf(folder, "shards", place / "runs")
    sizes = [tensor.nbytes for path in folder.glob("*.safetensors") for tensor in load_file(path).values()]
    assert most <= 2 * max(sizes) < sum(sizes)
    back = place / "shards-back"
    export_hf(run, back, shard_bytes=20_000)
    index = json.loads((back / hf_folder.INDEX).read_text())["weight_map"]
    assert len(set(index.values())) > 2
    assert all(path.stat().st_size < 2 * max(max(sizes), 20_000) for path in back.glob("*.safetensors"))
    transformers.AutoModelForCausalLM.from_pretrained(back)


def damaged(place, llama, name):
    folder = place / f"damaged-{name}"
    shutil.copytree(llama[0], folder)
    return folder


def with_option(folder, **options):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


REFUSED = {
    "quantization_config": {"bits": 4},
    "sliding_window": 128,
    "hidden_act": "gelu_new",
    "attention_dropout": 0.1,
    "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0},
    "model_type": "lama",
}


@pytest.mark.parametrize("option", REFUSED)
def test_options_that_cannot_be_kept_to_are_refused_by_name(place, llama, option):
    folder = damaged(place, llama, option)
    with_option(folder, **{option: REFUSED[option]})
    with pytest.raises(ConfigError, match=f"^config.json: .*{option}.*$"):
        import_hf(folder, "refused", place / "runs")
    assert not (place / "runs" / "refused").exists()


def test_pickles_are_refused(place, llama):
    folder = damaged(place, llama, "pickle")
    (folder / hf_folder.WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="pytorch_model.bin is a pickle"):
        import_hf(folder, "refused", place / "runs")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), "'model.norm.weight' is missing"),
        (lambda tensors: tensors.update(extra=torch.zeros(2)), "'extra' has no place"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.zeros(2)}), "'model.norm.weight' has shape"),
        (lambda tensors: tensors.update({"model.norm.weight": torch.zeros(2).char()}), "has type I8"),
    ],
)
def test_tensors_that_do_not_fit_are_refused_by_name(place, llama, change, message):
    folder = damaged(place, llama, "tensors")
    tensors = load_file(folder / hf_folder.WEIGHTS)
    change(tensors)
    save_file(tensors, folder / hf_folder.WEIGHTS)
    try:
        with pytest.raises(CheckpointError, match=message):
            import_hf(folder, "refused", place / "runs")
    finally:
        shutil.rmtree(folder)


def test_a_failed_import_leaves_no_model(place, llama, monkeypatch):
    monkeypatch.setattr(hf_folder, "read_tensors", lambda *_: (_ for _ in ()).throw(OSError("disk gone")))
    with pytest.raises(OSError, match="disk gone"):
        import_hf(llama[0], "gone", place / "runs")
    (folder,) = (place / "runs" / "gone").iterdir()
    assert json.loads((folder / run_folder.STATUS).read_text())["state"] == "failed"
    with pytest.raises(CheckpointError, match="no complete checkpoint"):
        load_model(folder)


def test_an_export_overwrites_nothing(place, llama):
    run = import_hf(llama[0], "once", place / "runs")
    (place / "taken").mkdir()
    with pytest.raises(DataError, match="taken exists already"):
        export_hf(run, place / "taken")


def test_tables_name_every_tensor_of_a_family(llama):
    """A family's table is one to one: no tensor of ours is read from two of theirs."""
    config = from_json((llama[0] / "config.json").read_text())
    family = FAMILIES["llama"]
    spec = load_spec(model_data(family, config))
    ours = [name for tensor in correspondences(family, spec).values() for name in tensor.ours]
    assert len(ours) == len(set(ours))


@pytest.mark.parametrize("option", ["hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size"])
def test_a_missing_size_is_named(place, llama, option):
    folder = damaged(place, llama, f"without-{option}")
    config = json.loads((folder / "config.json").read_text())
    del config[option], config["head_dim"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match=rf"^config.json: ({option}|head_dim) is missing$"):
        import_hf(folder, "refused", place / "runs")


def test_older_spellings_of_rotary_positions_are_read(place, llama):
    folder = damaged(place, llama, "older")
    config = json.loads((folder / "config.json").read_text())
    config |= {"rope_theta": config.pop("rope_parameters")["rope_theta"], "rope_scaling": None}
    (folder / "config.json").write_text(json.dumps(config))
    run = import_hf(folder, "older", place / "runs")
    assert run_folder.open_run(run).spec.layers["attn"].rope_base == 10_000.0
    with_option(folder, rope_scaling={"type": "linear", "factor": 2.0})
    with pytest.raises(ConfigError, match="rope_parameters.rope_type='linear' is not supported"):
        import_hf(folder, "refused", place / "runs")


def test_scaled_rotary_positions_are_read_as_they_are_published(place, llama):
    """Llama 3.1's words, and DeepSeek-V3's."""
    folder = damaged(place, llama, "longer")
    scaled = {"original_max_position_embeddings": 8192, "rope_type": "llama3", "factor": 8.0}
    with_option(folder, rope_scaling=scaled | {"low_freq_factor": 1.0, "high_freq_factor": 4.0}, rope_parameters=None)
    scaling = run_folder.open_run(import_hf(folder, "longer", place / "runs")).spec.layers["attn"].rope_scaling
    assert scaling == RopeScaling(rule="llama3", factor=8, original_length=8192, fast_turns=4)
    yarn = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1}
    with_option(folder, rope_scaling=yarn | {"mscale": 1.0, "mscale_all_dim": 1.0})
    scaling = run_folder.open_run(import_hf(folder, "yarn", place / "runs")).spec.layers["attn"].rope_scaling
    assert scaling == RopeScaling(
        rule="yarn", factor=40, original_length=4096, fast_turns=32, mscale=1.0, mscale_all_dim=1.0
    )
    with_option(folder, rope_scaling=scaled | {"sections": [16]})
    with pytest.raises(ConfigError, match="sections=.* is no option of llama that Eyas knows"):
        import_hf(folder, "refused", place / "runs")


@pytest.mark.parametrize("name", ["zamba2_2.7b", "jamba_v0.1"])
def test_shipped_models_are_exported_with_all_their_parameters(name):
    spec = load_spec(model_group(name))
    family, config = family_of_model(spec)
    architecture = getattr(transformers, family.architecture)
    with torch.device("meta"):
        theirs = architecture(architecture.config_class.from_dict(config))
    counted = sum(parameter.numel() for parameter in theirs.parameters())
    assert parameters(spec) == sum(tensor.numel for tensor in correspondences(family, spec).values()) == counted
