"""Batches of tokens whose order is a function of seed and step alone, whatever the layout."""
# B sequences of a batch, S tokens of a sequence

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eyas.core.errors import CheckpointError, LayoutError
from eyas.core.labels import IGNORED
from eyas.experiments.batch_sizes import BatchRamp, BatchSizes
from eyas.experiments.corpus import DataConfig
from eyas.experiments.prepared import Prepared
from eyas.parallel.indexed import TokenFile, open_tokens

Batch = dict[str, Tensor]
"""tokens (B, S), labels (B, S) and, where documents are isolated, documents (B, S), all int64."""


@dataclass(frozen=True)
class Share:
    """The rows of every global batch that one data-parallel rank trains on."""

    global_batch: int
    rank: int = 0
    ranks: int = 1

    def __post_init__(self) -> None:
        if self.global_batch % self.ranks:
            raise LayoutError(
                f"a global batch of {self.global_batch} sequences cannot be split over {self.ranks} data-parallel "
                "ranks; choose a multiple"
            )

    def of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's rows of a global batch, which may be smaller than the full one."""
        size = len(rows) // self.ranks
        return rows[self.rank * size : (self.rank + 1) * size]


class Windows:
    """A token file cut into sequences: each token but the first is a label once."""

    def __init__(self, source: TokenFile, sequence_length: int, isolate_documents: bool = False) -> None:
        self.source = source
        self.sequence_length = sequence_length
        self.isolate_documents = isolate_documents

    @property
    def whole(self) -> int:
        """Number of full sequences."""
        return (len(self.source.tokens) - 1) // self.sequence_length

    @property
    def all(self) -> int:
        """Number of sequences, the short last one included."""
        return -(-(len(self.source.tokens) - 1) // self.sequence_length)

    def batch(self, rows: NDArray[np.int64]) -> Batch:
        """The sequences by number; what lies past the end, or has number -1, has no label."""
        shape = (len(rows), self.sequence_length)
        tokens, labels = np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
        documents = np.zeros(shape, np.int64)
        for row, window in enumerate(rows):
            if window < 0:
                continue
            start = int(window) * self.sequence_length
            text = self.source.tokens[start : start + self.sequence_length + 1]
            tokens[row, : len(text) - 1] = text[:-1]
            labels[row, : len(text) - 1] = text[1:]
            if self.isolate_documents:
                positions = np.arange(start, start + self.sequence_length)
                numbers = np.searchsorted(self.source.document_starts, positions, side="right")
                documents[row] = numbers - numbers[0]
        batch = {"tokens": torch.from_numpy(tokens), "labels": torch.from_numpy(labels)}
        return batch | {"documents": torch.from_numpy(documents)} if self.isolate_documents else batch


class StepBatches(ABC):
    """Endless training batches for Lightning, one for each step: `batches[step]` is this rank's share of it.

    With a ramp the first batches are smaller. Iteration goes on where `load_state_dict` says. The length is the number
    of steps of the run: without one Lightning fetches a batch ahead and a resumed run would miss it.
    """

    def __init__(self, share: Share, steps: int, seed: int, ramp: BatchRamp | None = None) -> None:
        self.share, self.steps, self.seed = share, steps, seed
        self.sizes = BatchSizes(share.global_batch, ramp)
        self.served = 0
        self.before_each: Callable[[], None] | None = None
        """Called before each batch is made."""

    def __len__(self) -> int:
        return self.steps

    @abstractmethod
    def __getitem__(self, step: int) -> Batch: ...

    def __iter__(self) -> Iterator[Batch]:
        while self.served < self.steps:
            if self.before_each is not None:
                self.before_each()
            batch = self[self.served]
            self.served += 1
            yield batch

    def numbers(self, step: int) -> NDArray[np.int64]:
        """Numbers of the samples in the global batch of a step, counted from the start of the run."""
        return np.arange(self.sizes.before(step), self.sizes.before(step + 1))

    def state_dict(self) -> dict[str, Any]:
        """How far the run has come."""
        ramp = None if self.sizes.ramp is None else asdict(self.sizes.ramp)
        return {"batches_served": self.served, "global_batch": self.sizes.full, "batch_ramp": ramp}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on after the batches already served, whatever the layout is now."""
        here = self.state_dict()
        if state["global_batch"] != here["global_batch"]:
            raise CheckpointError(
                f"the checkpoint was trained with a global batch of {state['global_batch']} sequences and this run "
                f"asks for {here['global_batch']}, so the order of samples would break; keep the global batch"
            )
        if state.get("batch_ramp") != here["batch_ramp"]:
            raise CheckpointError(
                f"the checkpoint was trained with batch_ramp={state.get('batch_ramp')} and this run asks for "
                f"{here['batch_ramp']}, so the order of samples would break; keep the ramp"
            )
        self.served = state["batches_served"]


class TrainingBatches(StepBatches):
    """Windows of text, in another order each epoch."""

    def __init__(self, windows: Windows, share: Share, steps: int, seed: int, ramp: BatchRamp | None = None) -> None:
        super().__init__(share, steps, seed, ramp)
        self.windows = windows

    def __getitem__(self, step: int) -> Batch:
        return self.windows.batch(self.share.of(self.rows(step)))

    def rows(self, step: int) -> NDArray[np.int64]:
        """Numbers of the windows in the global batch of a step; an epoch may end inside it."""
        epochs, places = np.divmod(self.numbers(step), self.windows.whole)
        orders = {epoch: epoch_order(self.seed, epoch, self.windows.whole) for epoch in np.unique(epochs).tolist()}
        pairs = zip(epochs.tolist(), places.tolist(), strict=True)
        return np.array([orders[epoch][place] for epoch, place in pairs], dtype=np.int64)


class ValidationBatches:
    """The same validation sequences every time, spread evenly over the split, each exactly once.

    The last batch is filled up with rows without labels, so a mean over labels, weighted by their number, is exact.
    """

    def __init__(self, windows: Windows, share: Share, sequences: int | None = None) -> None:
        self.windows, self.share = windows, share
        count = windows.all if sequences is None else min(sequences, windows.all)
        self.chosen = np.arange(count, dtype=np.int64) * windows.all // count
        missing = -count % share.global_batch
        self.padded = np.concatenate([self.chosen, np.full(missing, -1, np.int64)])

    def __len__(self) -> int:
        return len(self.padded) // self.share.global_batch

    def __getitem__(self, index: int) -> Batch:
        size = self.share.global_batch
        return self.windows.batch(self.share.of(self.padded[index * size : (index + 1) * size]))

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))


def training_batches(
    config: DataConfig, prepared: Prepared, share: Share, steps: int, ramp: BatchRamp | None = None
) -> TrainingBatches:
    """The training batches of a run."""
    return TrainingBatches(_windows(config, prepared.train_prefix), share, steps, config.seed, ramp)


def validation_batches(config: DataConfig, prepared: Prepared, share: Share) -> ValidationBatches:
    """The validation batches of a run."""
    return ValidationBatches(_windows(config, prepared.validation_prefix), share, config.validation_sequences)


def _windows(config: DataConfig, prefix: Path) -> Windows:
    return Windows(open_tokens(prefix), config.sequence_length, config.isolate_documents)


@lru_cache(maxsize=2)
def epoch_order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """A permutation of `count` windows; from raw bits, whose stream NumPy promises never to change (NEP 19)."""
    bits = np.random.PCG64(np.random.SeedSequence([seed, epoch])).random_raw(count)
    order = np.argsort(bits, kind="stable").astype(np.int64)
    order.flags.writeable = False  # the cache hands out the same array again
    return order
