"""Models from transformers and back to it, as folders: nothing is lost, and texts go on with the same tokens."""

import json
import shutil
import weakref

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from eyas.core.accounting import parameters
from eyas.core.errors import ConfigError
from eyas.core.model import load_model as load_spec
from eyas.experiments import hf_folder, run_folder
from eyas.experiments.export_hf import export_hf
from eyas.experiments.generate import generate, load_model
from eyas.experiments.import_hf import import_hf
from eyas.experiments.model_group import model_group
from eyas.experiments.tokenizer import load_tokenizer
from eyas.layers.hf_families import FAMILIES, family_of_model
from eyas.layers.hf_options import from_json, model_data
from eyas.layers.hf_tensors import correspondences
from eyas.layers.rope_scaling import RopeScaling
from eyas.layers.sampling import Sampling

transformers = pytest.importorskip("transformers")
from hf_folders import damaged, greedy, our_greedy, saved_model, with_option  # noqa: E402
from hf_full_models import FULL, LIMITED  # noqa: E402
from hf_models import DRAWN  # noqa: E402

WITHOUT_SHRINKING = [Phase.explicit, Phase.reuse, Phase.generate]


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


@pytest.mark.parametrize(
    ("dtype", "named"), [(torch.bfloat16, "bfloat16"), (torch.bfloat16, "float32"), (torch.float16, None)]
)
def test_half_precision_is_kept_bit_by_bit_while_it_holds_the_weights(place, llama, dtype, named):
    """And transformers loads the export in the type in which it loads the source, or in the usual one."""
    half, norm = damaged(place, llama, f"{dtype}-{named}"), "model.norm.weight"
    back, folder = place / f"{half.name}-back", llama[0]
    with_option(half, dtype=named)
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / hf_folder.WEIGHTS).items()}
    save_file(tensors | {norm: tensors[norm].float()}, half / hf_folder.WEIGHTS, {"format": "pt"})
    run = import_hf(half, "half", place / "runs")
    export_hf(run, back)
    found = load_file(back / hf_folder.WEIGHTS)
    assert found.keys() == tensors.keys()
    for name, tensor in found.items():
        assert tensor.dtype == (torch.float32 if name == norm else dtype)
        assert torch.equal(tensor, tensors[name].to(tensor.dtype))
    loaded = [transformers.AutoModelForCausalLM.from_pretrained(place).dtype for place in (half, back)]
    assert loaded[1] == (loaded[0] if named else dtype)

    family, spec = FAMILIES["llama"], run_folder.open_run(run).spec
    table, weights = correspondences(family, spec), load_model(run).state_dict()
    read = hf_folder.tensor_types([half / hf_folder.WEIGHTS])
    assert set(hf_folder.types_to_write(table, weights, read).values()) == {torch.float32, dtype}
    weights["embedding.weight"][0, 0] = 1 / 3
    assert set(hf_folder.types_to_write(table, weights, read).values()) == {torch.float32}


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


def test_tables_name_every_tensor_of_a_family(llama):
    """A family's table is one to one: no tensor of ours is read from two of theirs."""
    config = from_json((llama[0] / "config.json").read_text())
    family = FAMILIES["llama"]
    spec = load_spec(model_data(family, config))
    ours = [name for tensor in correspondences(family, spec).values() for name in tensor.ours]
    assert len(ours) == len(set(ours))


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
