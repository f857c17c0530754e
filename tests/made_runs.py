"""Run folders as runs leave them, made without training."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from eyas.experiments.run_records import CURVES

QUESTION = "Does one attention layer recall what a pure state-space model does not?"
PASSES = [
    "accuracy >= 0.95 where model=hybrid",
    "accuracy <= 0.2 where model=mamba2",
    "accuracy >= 0.7 at step 40 where model=hybrid",
]
MODELS = ("hybrid", "mamba2", "parallel", "transformer")
LENGTHS = (64, 128, 256, 512)


def make_run(
    folder: Path, model: str = "hybrid", rate: float = 0.003, seed: int = 1, steps: int = 60, routers: bool = False,
    state: str = "finished", passes: list[str] | None = None, columns: str | None = None, more: int = 0,
) -> Path:  # fmt: skip
    """A finished run of a model whose accuracy its name decides, with some noise of its seed, and `more` kinds of
    curves than loss, gradient norm, learning rate, speed and accuracy."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng([seed, MODELS.index(model) if model in MODELS else 9, int(rate * 1e5)])
    reached = {"hybrid": 0.98, "parallel": 0.8, "transformer": 0.13}.get(model, 0.03) + 0.01 * noise.standard_normal()
    config: dict[str, Any] = {
        "seed": seed,
        "model": {"name": model, "pattern": [model, "ffn"], "repeat": 3},
        "optimizer": {"learning_rate": rate},
        "experiment": {
            "question": QUESTION,
            "budget": "two cores",
            "passes": PASSES if passes is None else passes,
            "columns": columns,
        },
    }
    (folder / "config.yaml").write_text(json.dumps(config))
    overrides = [f"model={model}", f"optimizer.learning_rate={rate}", f"seed={seed}"]
    (folder / "overrides.yaml").write_text(json.dumps(overrides))
    (folder / "status.json").write_text(json.dumps({"state": state, "error": "out of luck" * (state == "failed")}))
    environment = {"python": "3.11.9", "packages": {"torch": "2.13", "mamba-ssm": None}, "command": ["eyas", model]}
    (folder / "environment.json").write_text(json.dumps(environment))
    loss = 3.0 - 2 * reached + np.exp(-np.arange(steps) / steps * 6) + 0.03 * noise.standard_normal(steps)
    write_curves(folder, loss, noise, reached, rate, routers, more)
    if state == "finished":
        metrics = {
            "validation_loss": float(loss[-1]) + 0.01, "train_loss": float(loss[-1]), "accuracy": reached,
            "uniform_loss": 5.5, "tokens_per_second": 1700 + 60 * float(noise.standard_normal()),
            "parameters": 71_234, "training_flops_per_token": 31_395_840.0, "memory_gib": 0.8, "seconds": 40.0,
            "steps": steps,
        }  # fmt: skip
        metrics |= {f"accuracy@{length}": max(0.0, reached - 0.05 * math.log2(length / 64)) for length in LENGTHS}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return folder


def write_curves(
    folder: Path, loss: Any, noise: Any, reached: float, rate: float, routers: bool, more: int = 0
) -> None:
    """metrics.csv: written at once, as RunLogger would row by row."""
    steps = len(loss)
    every = max(1, steps // 6)
    experts = [f"blocks.1.branches.moe/load_{expert}" for expert in range(8)]
    figures = [f"blocks.1.branches.moe/{name}" for name in ("max_violation", "entropy", "dropped")]
    names = ["step", "train/loss", "grad_norm", "learning_rate", "tokens_per_second", "validation/loss", "accuracy"]
    others = [f"other_{number}" for number in range(more)]
    lines = [",".join(names + others + (experts + figures) * routers)]
    for step in range(steps):
        measured = (step + 1) % every == 0
        row = [step, loss[step], 0.4 + 0.1 * abs(noise.standard_normal()), rate * (1 - step / steps), 1700.0]
        row += [loss[step] + 0.01, reached * (step + 1) / steps] if measured else ["", ""]
        row += [*noise.standard_normal(more)]
        if routers:
            row += [*noise.dirichlet(np.full(8, 5.0)) * 8, 0.4, 1.9, 0.0]
        lines.append(",".join(map(str, row)))
    (folder / CURVES).write_text("\n".join(lines) + "\n")


def make_sweep(folder: Path, runs: int, steps: int = 60, seeds: int = 3, routers: bool = False, more: int = 0) -> Path:
    """So many runs: models, then learning rates, each with its seeds; of each, the first has routers."""
    for number in range(runs):
        point = number // seeds
        model, rate = MODELS[point % len(MODELS)], 0.001 * (1 + point // len(MODELS))
        mixed = routers and number % seeds == 0
        make_run(folder / str(number), model, round(rate, 4), 1 + number % seeds, steps, mixed, more=more)
    return folder
