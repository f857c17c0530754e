"""A trace of some steps by torch's profiler, with each block and mixer by name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile

from eyas.experiments.profile_config import ProfileConfig

FOLDER = "profile"


class Profile(Callback):
    """Writes profile/steps-FIRST-LAST-rank-RANK.json in the run's folder, which https://ui.perfetto.dev opens; a file
    for each rank. Steps are counted from one, as the terminal counts them."""

    def __init__(self, options: ProfileConfig, folder: Path) -> None:
        self.options, self.folder = options, folder / FOLDER
        self.profiler: profile | None = None
        self.first = 0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        """A resumed run counts the steps before the window from where it goes on."""
        self.first = trainer.global_step + self.options.start + 1

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, *_: object) -> None:
        if trainer.global_step + 1 != self.first:
            return
        os.environ.setdefault("KINETO_LOG_LEVEL", "6")  # torch tells on the terminal when it starts and stops
        gpu = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
        self.profiler = profile(activities=[ProfilerActivity.CPU, *gpu], acc_events=True)
        self.profiler.start()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        last = self.first + self.options.steps - 1
        if self.profiler is None or trainer.global_step != last:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.profiler.stop()
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"steps-{self.first}-{last}-rank-{trainer.global_rank}.json"
        self.profiler.export_chrome_trace(str(path))
        self.profiler = None
