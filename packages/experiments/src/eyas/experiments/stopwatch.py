"""How long a run has taken."""

from __future__ import annotations

import time
from typing import Any

from lightning.pytorch import Callback

from eyas.parallel.over_ranks import over_ranks


class Stopwatch(Callback):
    """The seconds that a run has taken, those before it was resumed or branched off included, as a checkpoint keeps
    them. Work that was lost behind the checkpoint does not count."""

    def __init__(self) -> None:
        self.before, self.started = 0.0, time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.before + time.perf_counter() - self.started

    def state_dict(self) -> dict[str, Any]:
        """The same on every rank: Megatron-Core warns of what is not."""
        return {"seconds": float(over_ranks([self.seconds]).max())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before = state_dict["seconds"]
