"""One process of a run: `python -m eyas.experiments.worker --run FOLDER --config FILE`. Knows nothing of Hydra."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import Trainer

from eyas.core.accounting import active_parameters, parameters, tail_parameters, training_flops
from eyas.core.errors import CheckpointError
from eyas.experiments import run_folder
from eyas.experiments.batches import Share
from eyas.experiments.callbacks import Checkpoints, ProgressLine, ResumesLog
from eyas.experiments.feed import feed_of
from eyas.experiments.missed_validations import MissedValidations
from eyas.experiments.module import TrainingModule
from eyas.experiments.named_step import run_of
from eyas.experiments.profiling import Profile
from eyas.experiments.router_picture import draw_routers
from eyas.experiments.run_config import RunConfig, load_run
from eyas.experiments.run_logger import RunLogger
from eyas.experiments.stopwatch import Stopwatch
from eyas.experiments.trackers import asked_for, loggers
from eyas.experiments.upcycle import experts_of
from eyas.layers.upcycle import Grown
from eyas.parallel import checkpoint, checkpoint_folder, groups, quiet
from eyas.parallel.launch import report_errors
from eyas.parallel.strategy import MegatronStrategy
from eyas.parallel.this_rank import replica_here

REFUSED_CODE = 2
"""Exit code of a rank that rank 0 told to do nothing; the refused command ends with the same."""
OF_CURVES: dict[str, tuple[str, Callable[[list[float]], float]]] = {
    "train_loss": ("train/loss", lambda values: values[-1]),
    "tokens_per_second": ("tokens_per_second", median),  # any one step may have been disturbed
    "mfu": ("mfu", median),
    "memory_gib": ("memory_gib", max),
}
"""What a run ends with of its curves: the column, and what is made of it."""


def main() -> None:
    """Trains one rank's share of a run."""
    parser = argparse.ArgumentParser(prog=__name__)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--config", type=Path)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--joined", action="store_true", help="rank 0 tells the others where the run is")
    parser.add_argument("--refused", action="store_true", help="rank 0 tells the others that there is nothing to do")
    arguments = parser.parse_args()
    quiet.install()
    if arguments.joined:
        arguments = same_everywhere(arguments)
    if arguments.refused:
        groups.finish()
        sys.exit(REFUSED_CODE)
    with report_errors(arguments.run):
        train(arguments.run, load_run(run_folder.read_config(arguments.config)), resume=arguments.resume)


def same_everywhere(arguments: argparse.Namespace) -> argparse.Namespace:
    """Rank 0's arguments, on every rank of a job that torchrun or SLURM started."""
    groups.start_world()
    box = [arguments]
    dist.broadcast_object_list(box, 0)
    return box[0]


def train(folder: Path, run: RunConfig, *, resume: bool) -> None:
    """Trains to the last step, from the start or from the latest checkpoint, and writes down the outcome."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    checkpoints = folder / run_folder.CHECKPOINTS
    start_from = checkpoint.latest(checkpoints) if resume else None
    if resume and start_from is None:
        raise CheckpointError(f"{checkpoints} holds no complete checkpoint to resume from")
    if not resume and run.branch_from is not None:
        start_from = run_folder.named_checkpoint(run.branch_from)

    groups.initialise(run.layout)
    share = Share(run.trainer.global_batch, replica_here(), run.layout.data)
    feed = feed_of(folder, run, share)
    steps = run.trainer.max_steps
    weights = None
    if start_from is None and run.start_from is not None:
        weights = run_folder.named_checkpoint(run.start_from)
    module = TrainingModule(run, weights, feed.begin_validation, None if weights is None else experts_from_dense(run))
    feed.training.before_each = module.begin_step
    log = RunLogger(folder)
    others = loggers(
        asked_for(run.logger),
        folder,
        experiment=run.name,
        runs=Path(run.runs),
        config=run_folder.read_config(folder / run_folder.CONFIG),
        first=dist.get_rank() == 0,
        resumed_at=checkpoint_folder.step_of(start_from) if resume and start_from is not None else None,
    )
    watch = Stopwatch()
    interval = run.trainer.validation_interval
    missed = MissedValidations(feed.validation, log, interval, resumed=resume)
    trainer = Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices="auto" if torch.cuda.is_available() else run.layout.processes,
        strategy=MegatronStrategy(run.layout),
        max_steps=steps,
        logger=[log, *others],
        callbacks=[
            watch,
            ProgressLine(),
            ResumesLog(log),
            missed,
            *([Profile(run.profile, folder)] if run.profile.kind == "torch" else []),
            Checkpoints(checkpoints, run.trainer.checkpoint_interval, run.trainer.keep_checkpoints),
        ],
        log_every_n_steps=1,
        val_check_interval=interval or steps,
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(
        module,
        feed.training,
        feed.validation,
        ckpt_path=None if start_from is None else str(start_from),
    )
    # Where no step was left to train Lightning ends no training, and the trackers are closed.
    missed.make_up(trainer, module, [log])
    if trainer.is_global_zero:
        run_folder.write_metrics(folder, feed.baselines | outcome(run, module, trainer.global_step, log, watch.seconds))
        draw_routers(folder, log.path)
        run_folder.write_status(folder, "finished")


def experts_from_dense(run: RunConfig) -> dict[str, Grown]:
    """How the layers that are upcycled get their weights; empty where none is."""
    if run.upcycle.copies is None:
        return {}
    return experts_of(run_folder.open_run(run_of(str(run.start_from))).spec, run.upcycle)


def outcome(run: RunConfig, module: TrainingModule, steps: int, log: RunLogger, seconds: float) -> dict[str, Any]:
    """The numbers that a run ends with; losses in nats per token."""
    curves = log.numbers(*(column for column, _ in OF_CURVES.values()))
    samples, length = run.trainer.batches.before(steps), run.data.sequence_length
    told = dict(module.validation)
    return {
        "validation_loss": told.pop("loss"),
        **{f"validation_{name}" if name.startswith("loss_") else name: value for name, value in told.items()},
        **{name: of(curves[column]) for name, (column, of) in OF_CURVES.items() if column in curves},
        "steps": steps,
        "samples": samples,
        "tokens": samples * length,
        "parameters": parameters(module.spec),
        "active_parameters": active_parameters(module.spec),
        "tail_parameters": tail_parameters(module.spec),
        "training_flops_per_token": training_flops(module.spec, length),
        "training_flops_per_token_megatron": training_flops(module.spec, length, "megatron"),
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
