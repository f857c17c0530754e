"""The layer of DeepSeek-V3's weights that predicts a further token: read, written, and equal to transformers' parts."""

import tempfile

import pytest
import torch
import torch.nn.functional as F
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from eyas.core.errors import CheckpointError, ConfigError
from eyas.core.mixer import Placement
from eyas.core.model import load_model
from eyas.layers.hf_deepseek_v3 import DEEPSEEK_V3
from eyas.layers.hf_families import family_of_model
from eyas.layers.hf_options import from_json, model_data
from eyas.layers.hf_tensors import our_tensors, their_tensors
from eyas.layers.model import MTP_LOSS, HybridLM
from eyas.parallel.context import Context

transformers = pytest.importorskip("transformers")
import parity  # noqa: E402
from hf_models import DRAWN, VOCABULARY, their_model  # noqa: E402

BEHIND = "model.layers.2."
WITHOUT_SHRINKING = [Phase.explicit, Phase.reuse, Phase.generate]


def published(drawn, seed):
    """A drawn model of two layers, the one behind them as a model of one layer, the tensors of both under the published
    names, and config.json. In float64."""
    architecture, config = drawn
    config.num_nextn_predict_layers = 1
    single = {"num_hidden_layers": 1, "first_k_dense_replace": max(0, config.first_k_dense_replace - 2)}
    with parity.float64():
        main = their_model((architecture, config), seed).double()
        behind = their_model((architecture, type(config).from_dict(config.to_dict() | single)), seed + 1).double()
    for model in (main, behind):
        model.config._experts_implementation = "eager"  # the grouped one knows no float64
    draw, width = torch.Generator().manual_seed(seed), config.hidden_size
    own = {
        "eh_proj": torch.randn(width, 2 * width, generator=draw, dtype=torch.float64) / width**0.5,
        "enorm": 1 + 0.1 * torch.randn(width, generator=draw, dtype=torch.float64),
        "hnorm": 1 + 0.1 * torch.randn(width, generator=draw, dtype=torch.float64),
        "shared_head.norm": behind.model.norm.weight.detach(),
        "embed_tokens": main.get_input_embeddings().weight.detach().clone(),
        "shared_head.head": main.get_output_embeddings().weight.detach().clone(),
    }
    tensors = saved(main) | {f"{BEHIND}{name}.weight": tensor for name, tensor in own.items()}
    first = "model.layers.0."
    tensors |= {name.replace(first, BEHIND): t for name, t in saved(behind).items() if name.startswith(first)}
    return main, behind, tensors, from_json(config.to_json_string())


def saved(model):
    """What `save_pretrained` writes, by its names."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(f"{folder}/model.safetensors")


def our_model(tensors, config):
    spec = load_model(model_data(DEEPSEEK_V3, config, depths=1))
    model = HybridLM(spec, Context(Placement(dtype=torch.float64)))
    model.load_state_dict(our_tensors(DEEPSEEK_V3, spec, tensors))
    return model, spec


def their_further_loss(main, behind, tensors, tokens, labels):
    """The mean loss of the labels behind the next ones: the layer reads, each normed and side by side, the next token's
    embedding and what the head reads (DeepSeek-AI, 2024, section 2.2, in the order of the published eh_proj)."""
    hidden = main.model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
    embedded = main.get_input_embeddings()(tokens[:, 1:])
    width, epsilon = (main.config.hidden_size,), main.config.rms_norm_eps
    normed = [
        F.rms_norm(x, width, tensors[f"{BEHIND}{name}.weight"], epsilon)
        for name, x in (("enorm", embedded), ("hnorm", hidden))
    ]
    joined = torch.cat(normed, dim=-1) @ tensors[f"{BEHIND}eh_proj.weight"].t()
    behind_head = behind.model(inputs_embeds=joined, use_cache=False).last_hidden_state
    return F.cross_entropy(main.get_output_embeddings()(behind_head).flatten(0, 1), labels[:, 1:].flatten())


@settings(max_examples=settings().max_examples // 2, phases=WITHOUT_SHRINKING)
@given(drawn=DRAWN["deepseek_v3"], seed=st.integers(0, 2**31 - 2))
def test_the_further_tokens_loss_equals_that_of_transformers_layers(drawn, seed):
    main, behind, tensors, config = published(drawn, seed)
    model, _ = our_model(tensors, config)
    tokens, labels = torch.randint(0, VOCABULARY, (2, 2, 15), generator=torch.Generator().manual_seed(seed))
    with parity.float64():
        expected = their_further_loss(main, behind, tensors, tokens, labels)
    actual = model(tokens, labels).parts[MTP_LOSS].sum() / labels[:, 1:].numel()
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=0)
    expected.backward()
    actual.backward()
    for ours, theirs in (
        (model.embedding.weight, main.get_input_embeddings().weight),
        (model.mtp.depths[0].final_norm.weight, behind.model.norm.weight),
    ):
        assert (ours.grad - theirs.grad).abs().max() <= 1e-9 * theirs.grad.abs().max()


@settings(max_examples=settings().max_examples // 2, phases=WITHOUT_SHRINKING)
@given(drawn=DRAWN["deepseek_v3"])
def test_what_is_read_is_written_with_its_copies(drawn):
    _, _, tensors, config = published(drawn, seed=0)
    model, spec = our_model(tensors, config)
    written = their_tensors(DEEPSEEK_V3, spec, model.state_dict())
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[name], tensors[name]) for name in tensors)
    family, again = family_of_model(spec)
    assert family is DEEPSEEK_V3 and again["num_nextn_predict_layers"] == 1
    assert model_data(DEEPSEEK_V3, again, depths=1) == model_data(DEEPSEEK_V3, config, depths=1)


@pytest.fixture(scope="module")
def weights():
    common = {"hidden_size": 16, "num_attention_heads": 2, "vocab_size": VOCABULARY, "intermediate_size": 20}
    latent = {"q_lora_rank": None, "kv_lora_rank": 4, "qk_nope_head_dim": 4, "qk_rope_head_dim": 4, "v_head_dim": 4}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1}
    config = transformers.DeepseekV3Config(
        **common, **latent, **experts, num_key_value_heads=2, num_hidden_layers=2, first_k_dense_replace=1,
        moe_intermediate_size=8, n_shared_experts=1,
    )  # fmt: skip
    return published((transformers.DeepseekV3ForCausalLM, config), seed=0)[2:]


@pytest.mark.parametrize("copy", ["embed_tokens", "shared_head.head"])
def test_a_copy_may_be_missing_but_not_differ(weights, copy):
    tensors, config = weights
    name = f"{BEHIND}{copy}.weight"
    whole, _ = our_model(tensors, config)
    without, _ = our_model({key: tensor for key, tensor in tensors.items() if key != name}, config)
    assert all(map(torch.equal, whole.state_dict().values(), without.state_dict().values()))
    changed = tensors[name].clone()
    changed[0, 0] += 1
    with pytest.raises(CheckpointError, match=rf"'{name}' differs from (embedding|head).weight, which takes its place"):
        our_model(tensors | {name: changed}, config)


def test_a_tensor_of_the_layer_that_is_missing_or_left_over_is_named(weights):
    tensors, config = weights
    with pytest.raises(CheckpointError, match=r"'model.layers.2.hnorm.weight' is missing"):
        our_model({key: tensor for key, tensor in tensors.items() if "hnorm" not in key}, config)
    with pytest.raises(CheckpointError, match=r"'model.layers.3.enorm.weight' has no place"):
        our_model(tensors | {"model.layers.3.enorm.weight": torch.zeros(16)}, config)


def test_two_layers_are_refused_both_ways(weights):
    _, config = weights
    with pytest.raises(ConfigError, match="num_nextn_predict_layers=2 is not supported"):
        model_data(DEEPSEEK_V3, config, depths=2)
    model = model_data(DEEPSEEK_V3, config, depths=1)
    spec = load_model(model | {"pattern": model["pattern"] + " / mla, moe"})
    with pytest.raises(ConfigError, match="the tail after '/' is 2 layers, and deepseek_v3 has one"):
        family_of_model(spec)
