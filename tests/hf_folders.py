"""Models of transformers' in folders, and how they and ours go on with a text."""

import json
import shutil

import pytest
import torch
from tokenizers import processors

from eyas.experiments.generate import load_model
from eyas.experiments.run_tokenizer import open_tokenizer
from eyas.experiments.tokenizer import entries, train_tokenizer
from eyas.layers.decoding import decode, read
from eyas.layers.sampling import Sampling

transformers = pytest.importorskip("transformers")

from hf_models import their_model  # noqa: E402

TEXTS = ["falcons hunt from the fist", "a hood calms the falcon"] * 20
VOCABULARY = 280
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


def with_option(folder, **options):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


def damaged(place, llama, name):
    """A copy, to be changed, of a folder that `saved_model` filled."""
    folder = place / f"damaged-{name}"
    shutil.copytree(llama[0], folder)
    return folder
