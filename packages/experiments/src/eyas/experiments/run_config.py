"""The configuration of a run: what Hydra composes, typed, and checked as a whole before any process starts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from eyas.core.allocation import AllocationConfig
from eyas.core.errors import ConfigError, LayoutError
from eyas.core.model import ModelSpec, load_model
from eyas.core.schema import load
from eyas.experiments.batch_sizes import BatchRamp, BatchSizes
from eyas.experiments.data_config import DataConfig
from eyas.experiments.experiment import ExperimentConfig
from eyas.experiments.match import MatchConfig
from eyas.experiments.named_step import step_of
from eyas.experiments.profile_config import ProfileConfig
from eyas.experiments.schedule import ScheduleConfig
from eyas.experiments.tasks import LANGUAGE_MODELLING, Task, load_task
from eyas.experiments.trackers import TENSORBOARD, asked_for
from eyas.experiments.upcycle import UpcycleConfig
from eyas.parallel.fits import check_fits
from eyas.parallel.layout import Layout
from eyas.parallel.options import OptimizerOptions


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """The `trainer` group: how long, in what batches, and what is kept."""

    max_steps: int = 1000
    """Optimizer steps; one step works through one global batch."""
    global_batch: int = 16
    """Sequences in a step, over all replicas."""
    microbatch: int = 4
    """Sequences that one replica works through at once."""
    precision: Literal["float32", "float64", "bfloat16"] = "float32"
    """Of weights and activations. Beside bfloat16, master weights, the optimizer's state and the weights that say so
    (routers, decays, time steps) are float32."""
    gradients: Literal["float32", "bfloat16"] = "float32"
    """Precision, at least, in which gradients are added up over microbatches and replicas."""
    batch_ramp: BatchRamp | None = None
    """Start with a smaller global batch: {start: sequences, increment: sequences, steps: until it is full}."""
    activation_rms: bool = False
    """Whether to log at every step the root mean square of each block's output, outputs.<block>/rms."""
    validation_interval: int | None = None
    """Steps between validations; null for one at the end."""
    checkpoint_interval: int | None = None
    """Steps between checkpoints; null for one at the end."""
    keep_checkpoints: int | None = None
    """How many of the latest checkpoints stay on disk; null for all."""
    peak_tflops: float | Literal["measured"] | None = None
    """What a device could compute at most, in TFLOP/s, for MFU; `measured` for what a product of matrices reaches here;
    null for the data sheet's where a GPU is known and precision is bfloat16, and no MFU elsewhere."""
    step_times: bool = True
    """Log how long data, forward, backward, reduction, optimizer and waiting take in each step."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "global_batch", "microbatch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        for name in ("validation_interval", "checkpoint_interval", "keep_checkpoints"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}={value} must be at least 1, or null")
        if isinstance(self.peak_tflops, float) and not 0 < self.peak_tflops < math.inf:
            raise ConfigError(f"peak_tflops={self.peak_tflops} must be a number above 0, or measured, or null")
        if self.gradients == "bfloat16" and self.precision != "bfloat16":
            raise ConfigError(
                f"gradients=bfloat16 is narrower than the weights of precision={self.precision}; set "
                "precision=bfloat16, or gradients=float32"
            )
        if self.batch_ramp is not None:
            self.batch_ramp.check(self.global_batch)

    @property
    def batches(self) -> BatchSizes:
        """Sequences in each step."""
        return BatchSizes(self.global_batch, self.batch_ramp)


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Text that the trained model continues when a run ends."""

    prompt: str | None = None
    """null for no sample."""
    tokens: int = 120
    """Added at most."""
    temperature: float = 0.8
    """0 takes the likeliest token."""
    top_k: int | None = 50
    """Draw among the likeliest k; null among all."""

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ConfigError(f"tokens={self.tokens} must be at least 1")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature={self.temperature} must be a number of at least 0")
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"top_k={self.top_k} must be at least 1, or null for the whole vocabulary")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides a run; the run folder's config.yaml holds it whole."""

    name: str = "run"
    """Folder under `runs` that the run goes to."""
    runs: str = "runs"
    seed: int = 1
    """Of the initial weights."""
    start_from: str | None = None
    """Run folder whose model, tokenizer and weights this run starts from: the latest weights, or those of a step as in
    runs/dense@500; null for drawn weights."""
    branch_from: str | None = None
    """Run folder and step, as runs/stable@300: go on from that checkpoint, optimizer included, with another schedule or
    length. Without a step, from where the decay begins; null for a run of its own."""
    logger: str | tuple[str, ...] = TENSORBOARD
    """Where metrics go beside metrics.csv: tensorboard, wandb, mlflow, a list of them, or csv for nowhere else."""
    upcycle: UpcycleConfig = field(default_factory=UpcycleConfig)
    model: dict[str, Any]
    layout: Layout = field(default_factory=Layout)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerOptions = field(default_factory=OptimizerOptions)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    profile: ProfileConfig = field(default_factory=ProfileConfig)
    sample: SampleConfig = field(default_factory=SampleConfig)
    experiment: ExperimentConfig = field(default_factory=ExperimentConfig)
    objective: str = "validation_loss"
    """Metric of the outcome that a sweeper searches by."""
    task: dict[str, Any] = field(default_factory=lambda: {"kind": LANGUAGE_MODELLING})
    allocation: AllocationConfig = field(default_factory=AllocationConfig)
    """What the model's widths were decided by, where they were; they stand in `model`."""
    match: MatchConfig = field(default_factory=MatchConfig)
    """What a width of the model was solved for, where one was; it stands in `model`."""

    @property
    def spec(self) -> ModelSpec:
        """The model that the `model` group describes."""
        return load_model(self.model)

    @property
    def drawn_task(self) -> Task | None:
        """The task that draws its own sequences; None for language modelling."""
        return load_task(self.task)


def load_run(data: Mapping[str, Any]) -> RunConfig:
    """Reads plain data, and checks that its parts fit together. Raises ConfigError, LayoutError or DataError."""
    task = load_task(data.get("task") or {"kind": LANGUAGE_MODELLING})  # before `data`, whose sizes follow from it
    if task is None and (data.get("data") or {}).get("source") == "task":
        raise ConfigError("data=task is what a task draws, but task=language_modelling reads text; choose data=files")
    run = load(RunConfig, data)
    check(run)
    return run


def check(run: RunConfig) -> None:
    """Raises ConfigError or LayoutError where model, layout, batch, data and schedule do not fit together."""
    spec, layout, trainer = run.spec, run.layout, run.trainer
    asked_for(run.logger)
    behind = 0 if run.branch_from is None else step_of(run.branch_from)
    run.profile.check(trainer.max_steps - behind)
    for size in trainer.batches.all:
        try:
            layout.check_microbatches(layout.microbatches(size, trainer.microbatch))
        except LayoutError as error:
            if size == trainer.global_batch:
                raise
            raise LayoutError(f"a stage of trainer.batch_ramp: {error}") from error
    check_fits(spec, layout, run.data.sequence_length)
    if run.data.isolates_documents:
        check_documents(spec, f"data.documents={run.data.documents}")
    check_task(run, spec)
    if run.sample.prompt is not None and not run.data.has_tokenizer:
        raise ConfigError(
            "sample.prompt continues text, but the tokens have no data.tokenizer; give it, or sample=none"
        )
    if spec.vocab_size < run.data.vocab_size:
        raise ConfigError(
            f"model.vocab_size={spec.vocab_size} is smaller than data.vocab_size={run.data.vocab_size}; "
            f"set model.vocab_size={run.data.vocab_size}"
        )
    if trainer.precision == "float64" and layout.distributed_optimizer:
        raise ConfigError(
            "trainer.precision=float64 cannot be combined with layout.distributed_optimizer=true, whose state "
            "Megatron-Core saves in float32: a resumed run would be another one; set one of them to its default"
        )
    if layout.distributed_optimizer and layout.data * layout.context == 1:
        raise LayoutError(
            "layout.distributed_optimizer=true splits the optimizer's state over replicas, but layout.data=1; set "
            "layout.data=2 or more, or layout.distributed_optimizer=false"
        )
    if run.upcycle.copies is not None and run.start_from is None:
        raise ConfigError(
            f"upcycle.copies={run.upcycle.copies} makes a mixture of a dense run's layers; say which: start_from=RUN"
        )
    if run.optimizer.frozen or run.optimizer.groups:
        from eyas.layers.rank_model import check_optimizer

        check_optimizer(spec, run.optimizer)
    run.schedule.check(trainer.max_steps)


def check_task(run: RunConfig, spec: ModelSpec) -> None:
    """Raises ConfigError or LayoutError where task and data do not fit together, or the layout cannot test the task."""
    task, kind = run.drawn_task, run.task["kind"]
    if task is None:
        return
    reads, prompts = run.data.source != "task", run.sample.prompt is not None
    if reads or prompts:
        why = [f"data.source={run.data.source}"] * reads + ["sample.prompt continues text"] * prompts
        remedy = ["data=task"] * reads + ["sample=none"] * prompts
        raise ConfigError(f"task {kind} draws its own sequences, but {' and '.join(why)}; add {' '.join(remedy)}")
    for option in ("vocab_size", "sequence_length"):
        given, needed = getattr(run.data, option), getattr(task, option)
        if given != needed:
            raise ConfigError(f"data.{option}={given}, but task {kind} decides it: {needed}; leave it out")
    for test in task.tests().values():
        run.layout.check_sequence(test.sequence_length, spec.meta_tokens)


def check_documents(spec: ModelSpec, asked: str) -> None:
    """Raises ConfigError where a model cannot keep the documents of a sequence apart, as it is asked to."""
    if spec.meta_tokens:
        raise ConfigError(
            f"{asked}, but model.meta_tokens stand in front of a row, not of each of its documents; "
            "set one of them to its default"
        )
    for name, mixer in spec.used_layers.items():
        if not mixer.carries_documents:
            raise ConfigError(
                f"{asked}, but model.layers.{name} ({mixer.kind}) cannot keep documents apart; "
                "choose another mixer or data.documents=joined"
            )
