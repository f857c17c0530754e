"""A whole training step of every small model in conf/ that transformers has too: ours against transformers.

python benchmarks/families.py [--models falcon_h1_tiny mixtral_tiny] [--threads 1] [--repetitions 3] [--profile]

Both start from the same weights; a step is forward, loss, backward, clipping and AdamW (fused) in float32, as in
training_step.py. Auxiliary losses of mixtures and multi-token prediction are left out on both sides.
"""
# S sequence, B batch

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import operations
import torch
from measure import side_by_side, table
from safetensors.torch import save_file
from training_step import engine_step, first_steps, their_step
from transformers import AutoModelForCausalLM
from transformers.utils.logging import disable_progress_bar

from eyas.core.errors import EyasError
from eyas.core.model import load_model
from eyas.experiments.catalogue import models
from eyas.experiments.model_group import model_group
from eyas.layers import hf_tensors
from eyas.layers.hf_families import family_of_model
from eyas.layers.hf_options import to_json
from eyas.layers.model import HybridLM
from eyas.parallel import quiet
from eyas.parallel.alone import alone

B, S = 8, 256
WITHOUT = ("balance_loss", "sequence_balance_loss", "z_loss")


def main() -> None:
    names = [name for name in models() if name.endswith("_tiny")]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", choices=names, default=names)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="also tell which operations take the time on both sides")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    quiet.install()
    disable_progress_bar()
    with alone():
        for name in arguments.models:
            compare(name, arguments.repetitions, profile=arguments.profile)


def compare(name: str, repetitions: int, *, profile: bool) -> None:
    """Check that the first two steps have the same losses, then time steps and print the table, and with `profile`
    where the time goes."""
    spec = load_model(plain(model_group(name)))
    try:
        family, config = family_of_model(spec)
    except EyasError as error:
        print(f"{name}: not in transformers ({error})", flush=True)
        return
    weights = HybridLM(spec).initialise(1).state_dict()

    def ours() -> HybridLM:
        model = HybridLM(spec)
        model.load_state_dict(weights)
        return model

    def theirs() -> torch.nn.Module:
        with TemporaryDirectory(prefix="eyas-") as folder:
            Path(folder, "config.json").write_text(to_json(config))
            tensors = hf_tensors.their_tensors(family, spec, weights)
            save_file(
                {name: tensor.contiguous() for name, tensor in tensors.items()}, Path(folder, "model.safetensors")
            )
            return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()

    tokens_BS = torch.randint(1, spec.vocab_size, (B, S + 1), generator=torch.Generator().manual_seed(1))
    batch = {"tokens": tokens_BS[:, :-1].contiguous(), "labels": tokens_BS[:, 1:].contiguous()}
    models: dict[str, Callable[[], Any]] = {"transformers": theirs, "eyas": ours}
    step_of = {"transformers": partial(their_step, batch=batch, fused=True), "eyas": partial(engine_step, batch=batch)}
    losses, peaks = {}, {}
    for variant, make in models.items():
        losses[variant], peaks[variant] = first_steps(lambda make=make, variant=variant: step_of[variant](make()))
    found, expected = (torch.tensor(losses[variant]) for variant in ("eyas", "transformers"))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0)
    made = {variant: make() for variant, make in models.items()}
    steps = {variant: step_of[variant](model) for variant, model in made.items()}
    print(table(f"{name}: b{B} l{S}", side_by_side(steps, repetitions, peaks), ["transformers"], B * S), flush=True)
    if profile:
        print(operations.table({v: operations.shares(made[v], steps[v], repetitions) for v in made}), flush=True)


def plain(group: dict[str, Any]) -> dict[str, Any]:
    """The model without auxiliary losses and without multi-token prediction."""
    group = copy.deepcopy(group) | {"mtp_repeated": False}
    if isinstance(group["pattern"], str):
        group["pattern"] = group["pattern"].partition("/")[0]
    for layer in group["layers"].values():
        layer.update({option: 0.0 for option in WITHOUT if option in layer})
    return group


if __name__ == "__main__":
    main()
