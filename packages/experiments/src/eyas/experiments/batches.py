"""Batches of tokens whose order is a function of seed and step alone, whatever the layout."""
# B sequences of a batch, S tokens of a sequence

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eyas.core.errors import CheckpointError, LayoutError
from eyas.experiments.batch_sizes import BatchRamp, BatchSizes
from eyas.experiments.blend import drawn
from eyas.experiments.data_config import DataConfig
from eyas.experiments.prepared import Prepared
from eyas.experiments.windows import Batch, Packed, Sequences, Windows, batch_of
from eyas.parallel.indexed import open_tokens


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


class Epochs:
    """The sequences of a text, in another order each epoch."""

    def __init__(self, sequences: Sequences, seed: int, name: str) -> None:
        self.sequences, self.seed, self.name = sequences, seed, name
        self.orders: dict[int, NDArray[np.int64]] = {}
        """Of the epochs that were asked for last."""

    def rows(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sequences 0, 1, ... of the endless epochs, as numbers of those on disk."""
        if not len(numbers):  # of a text with a small share; its order is wanted again
            return numbers
        epochs, places = np.divmod(numbers, self.sequences.whole)
        wanted = np.unique(epochs).tolist()
        self.orders = {epoch: self._order(epoch) for epoch in wanted}
        pairs = zip(epochs.tolist(), places.tolist(), strict=True)
        return np.array([self.orders[epoch][place] for epoch, place in pairs], dtype=np.int64)

    def _order(self, epoch: int) -> NDArray[np.int64]:
        if epoch in self.orders:
            return self.orders[epoch]
        return epoch_order(self.seed, epoch, self.sequences.whole, self.name)


class TrainingBatches(StepBatches):
    """Sequences of a text, or of several in the shares of a blend."""

    def __init__(
        self,
        texts: Mapping[str, tuple[Fraction, Sequences]],
        share: Share,
        steps: int,
        seed: int,
        ramp: BatchRamp | None = None,
    ) -> None:
        """`texts` has the share and the sequences of each text by its name."""
        super().__init__(share, steps, seed, ramp)
        self.texts = [Epochs(sequences, seed, name) for name, (_, sequences) in texts.items()]
        self.shares = [of_all for of_all, _ in texts.values()]

    def __getitem__(self, step: int) -> Batch:
        """This rank's share of a step's global batch."""
        pairs = [(self.texts[text].sequences, number) for text, number in self.rows(self.share.of(self.numbers(step)))]
        any_text = self.texts[0].sequences
        return batch_of(pairs, any_text.sequence_length, any_text.isolate_documents)

    def rows(self, numbers: NDArray[np.int64]) -> list[tuple[int, int]]:
        """The text of each sample of the run, and the number of its sequence; an epoch may end anywhere."""
        places = [drawn(self.shares, number) for number in numbers.tolist()]
        found: list[tuple[int, int]] = [(0, 0)] * len(places)
        for text, epochs in enumerate(self.texts):
            mine = [index for index, (which, _) in enumerate(places) if which == text]
            rows = epochs.rows(np.array([places[index][1] for index in mine], dtype=np.int64))
            for index, row in zip(mine, rows.tolist(), strict=True):
                found[index] = text, row
        return found


class ValidationBatches:
    """The same validation sequences every time, spread evenly over the split, each exactly once.

    The last batch is filled up with rows without labels, so a mean over labels, weighted by their number, is exact.
    """

    def __init__(self, sequences: Sequences, share: Share, limit: int | None = None) -> None:
        self.sequences, self.share = sequences, share
        count = sequences.all if limit is None else min(limit, sequences.all)
        self.chosen = np.arange(count, dtype=np.int64) * sequences.all // count
        missing = -count % share.global_batch
        self.padded = np.concatenate([self.chosen, np.full(missing, -1, np.int64)])

    def __len__(self) -> int:
        return len(self.padded) // self.share.global_batch

    def __getitem__(self, index: int) -> Batch:
        size, sequences = self.share.global_batch, self.sequences
        rows = self.share.of(self.padded[index * size : (index + 1) * size])
        pairs = [(sequences, number) for number in rows.tolist()]
        return batch_of(pairs, sequences.sequence_length, sequences.isolate_documents)

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))


class BlendedValidation:
    """The validation batches of each text, one text after the other."""

    def __init__(self, texts: Mapping[str, ValidationBatches]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Batch]:
        return chain.from_iterable(self.texts.values())

    @property
    def names(self) -> list[str]:
        """The text of each batch."""
        return [name for name, batches in self.texts.items() for _ in range(len(batches))]


def training_batches(
    config: DataConfig, prepared: Prepared, share: Share, steps: int, ramp: BatchRamp | None = None
) -> TrainingBatches:
    """The training batches of a run."""
    sequences = training_sequences(config, prepared)
    texts = {text.name: (text.share, sequences[text.name]) for text in config.texts}
    return TrainingBatches(texts, share, steps, config.seed, ramp)


def training_sequences(config: DataConfig, prepared: Prepared) -> dict[str, Sequences]:
    """What each text is cut or packed into for training."""
    return {name: _sequences(config, text.train_prefix) for name, text in prepared.texts.items()}


def passes(config: DataConfig, prepared: Prepared, asked: int) -> dict[str, float]:
    """How often a run of so many sequences reads each text; one that makes none counts as one sequence."""
    sequences = training_sequences(config, prepared)
    return {text.name: asked * float(text.share) / max(1, sequences[text.name].whole) for text in config.texts}


def validation_batches(config: DataConfig, prepared: Prepared, share: Share) -> BlendedValidation:
    """The validation batches of a run."""
    sequences = {name: _sequences(config, text.validation_prefix) for name, text in prepared.texts.items()}
    limit = config.validation_sequences
    return BlendedValidation({name: ValidationBatches(each, share, limit) for name, each in sequences.items()})


def _sequences(config: DataConfig, prefix: Path) -> Sequences:
    tokens = open_tokens(prefix)
    if config.documents == "packed":
        return Packed(tokens, config.sequence_length)
    return Windows(tokens, config.sequence_length, config.isolates_documents)


def epoch_order(seed: int, epoch: int, count: int, name: str = "") -> NDArray[np.int64]:
    """A permutation of `count` sequences of a text; from raw bits, whose stream NumPy promises never to change (NEP
    19)."""
    entropy = [seed, epoch, *hashlib.sha256(name.encode()).digest()[:8]] if name else [seed, epoch]
    bits = np.random.PCG64(np.random.SeedSequence(entropy)).random_raw(count)
    return np.argsort(bits, kind="stable").astype(np.int64)
