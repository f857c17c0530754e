"""Batches of tokens: the order is a function of seed and step alone."""

from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eyas.core.errors import CheckpointError, LayoutError
from eyas.core.labels import IGNORED
from eyas.experiments.batch_sizes import BatchRamp
from eyas.experiments.batches import Share, TrainingBatches, ValidationBatches, Windows, epoch_order
from eyas.parallel.indexed import TokenFile

PINNED = [5, 6, 3, 7, 4, 1, 2, 0]
"""Changing this list breaks the order of samples of every run resumed or repeated."""


def windows(tokens: int, sequence_length: int = 4, starts: list[int] | None = None) -> Windows:
    """Windows over the numbers 0, 1, 2, ... so that a token tells its position."""
    isolate = starts is not None
    return Windows(TokenFile(np.arange(tokens), np.array(starts or [0])), sequence_length, isolate_documents=isolate)


shares = st.builds(lambda ranks, each: (ranks * each, ranks), st.integers(1, 4), st.integers(1, 3))
files = st.builds(windows, st.integers(6, 60), st.integers(1, 5))


def joined(batches: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.cat([batch[key] for batch in batches]) for key in batches[0]}


@given(files, shares, st.integers(0, 50), st.integers(0, 3))
def test_the_ranks_together_see_what_one_process_sees(
    file: Windows, share: tuple[int, int], step: int, seed: int
) -> None:
    size, ranks = share
    alone = TrainingBatches(file, Share(size), steps=100, seed=seed)[step]
    together = joined([TrainingBatches(file, Share(size, rank, ranks), 100, seed)[step] for rank in range(ranks)])
    assert all(torch.equal(alone[key], together[key]) for key in alone)


@given(files, st.integers(1, 7), st.integers(0, 3))
def test_every_sequence_is_used_once_an_epoch(file: Windows, size: int, seed: int) -> None:
    epochs = 3
    batches = TrainingBatches(file, Share(size), steps=10**6, seed=seed)
    rows = np.concatenate([batches.rows(step) for step in range(-(-epochs * file.whole // size))])
    for epoch in range(epochs):
        assert sorted(rows[epoch * file.whole : (epoch + 1) * file.whole]) == list(range(file.whole))


@given(files, st.integers(1, 7), st.integers(0, 50))
def test_labels_are_the_tokens_one_further(file: Windows, size: int, step: int) -> None:
    batch = TrainingBatches(file, Share(size), steps=100, seed=0)[step]
    assert torch.equal(batch["labels"], batch["tokens"] + 1)
    assert torch.equal(batch["tokens"][:, 1:], batch["labels"][:, :-1])


def test_the_order_is_pinned_for_all_time() -> None:
    assert epoch_order(1234, 0, 8).tolist() == PINNED
    assert epoch_order(1234, 1, 8).tolist() != PINNED
    assert epoch_order(1235, 0, 8).tolist() != PINNED


@given(shares, st.integers(0, 12), st.integers(1, 4))
def test_a_resumed_run_goes_on_with_the_next_batch_in_any_layout(
    share: tuple[int, int], served: int, divisor: int
) -> None:
    size, ranks = share[0] * divisor, share[1]
    file = windows(50)
    whole = [batch["tokens"] for batch in TrainingBatches(file, Share(size), steps=12, seed=3)]
    first = TrainingBatches(file, Share(size), steps=12, seed=3)
    for _ in zip(range(served), first, strict=False):
        pass
    resumed = []
    for rank in range(ranks):
        loader = TrainingBatches(file, Share(size, rank, ranks), steps=12, seed=3)
        loader.load_state_dict(first.state_dict())
        resumed.append([batch["tokens"] for batch in loader])
    for step, parts in enumerate(zip(*resumed, strict=True), start=served):
        assert torch.equal(torch.cat(parts), whole[step])
    assert len(resumed[0]) == 12 - served


def test_another_global_batch_is_refused_on_resume() -> None:
    state = TrainingBatches(windows(50), Share(4), steps=5, seed=0).state_dict()
    with pytest.raises(CheckpointError, match="global batch of 4 sequences and this run asks for 8"):
        TrainingBatches(windows(50), Share(8), steps=5, seed=0).load_state_dict(state)


RAMP = BatchRamp(start=4, increment=4, steps=5)
"""To 12 sequences: 4 in steps 0 to 2, 8 in 3 and 4."""


@given(files, st.integers(0, 3))
def test_growing_batches_take_the_samples_in_the_same_order(file: Windows, seed: int) -> None:
    ramped = TrainingBatches(file, Share(12), steps=8, seed=seed, ramp=RAMP)
    steady = TrainingBatches(file, Share(1), steps=64, seed=seed)
    rows = [ramped.rows(step) for step in range(8)]
    assert [len(row) for row in rows] == [4, 4, 4, 8, 8, 12, 12, 12]
    assert np.concatenate(rows).tolist() == [steady.rows(step)[0] for step in range(64)]


@given(st.integers(0, 8), st.sampled_from([1, 2, 4]))
def test_growing_batches_are_resumed_in_any_layout(served: int, ranks: int) -> None:
    whole = [batch["tokens"] for batch in TrainingBatches(windows(50), Share(12), 8, seed=3, ramp=RAMP)]
    first = TrainingBatches(windows(50), Share(12), 8, seed=3, ramp=RAMP)
    for _ in zip(range(served), first, strict=False):
        pass
    resumed = []
    for rank in range(ranks):
        loader = TrainingBatches(windows(50), Share(12, rank, ranks), 8, seed=3, ramp=RAMP)
        loader.load_state_dict(first.state_dict())
        resumed.append([batch["tokens"] for batch in loader])
    for step, parts in enumerate(zip(*resumed, strict=True), start=served):
        assert torch.equal(torch.cat(parts), whole[step])


def test_another_ramp_is_refused_on_resume() -> None:
    state = TrainingBatches(windows(50), Share(12), steps=5, seed=0, ramp=RAMP).state_dict()
    with pytest.raises(CheckpointError, match="trained with batch_ramp={'start': 4.* asks for None"):
        TrainingBatches(windows(50), Share(12), steps=5, seed=0).load_state_dict(state)


def test_a_global_batch_that_does_not_divide_is_refused() -> None:
    with pytest.raises(LayoutError, match="global batch of 6 sequences cannot be split over 4 data-parallel ranks"):
        Share(6, 0, 4)


@given(files, shares)
def test_validation_asks_for_every_token_but_the_first_once(file: Windows, share: tuple[int, int]) -> None:
    size, ranks = share
    labels: Counter[int] = Counter()
    for rank in range(ranks):
        for batch in ValidationBatches(file, Share(size, rank, ranks)):
            assert batch["tokens"].shape == (size // ranks, file.sequence_length)
            real = batch["labels"] != IGNORED
            assert torch.equal(batch["labels"][real], batch["tokens"][real] + 1)
            labels.update(batch["labels"][real].tolist())
    assert labels == Counter(range(1, len(file.source.tokens)))


@given(files, shares, st.integers(1, 20))
def test_limited_validation_is_a_spread_of_different_sequences_for_any_layout(
    file: Windows, share: tuple[int, int], limit: int
) -> None:
    size, ranks = share
    loaders = [ValidationBatches(file, Share(size, rank, ranks), limit) for rank in range(ranks)]
    chosen = loaders[0].chosen
    assert len(set(chosen.tolist())) == len(chosen) == min(limit, file.all)
    gaps = np.diff([*chosen, file.all])
    assert gaps.max() - gaps.min() <= 1
    rows = torch.cat([joined([loader[index] for loader in loaders])["labels"] for index in range(len(loaders[0]))])
    used = [row[0].item() // file.sequence_length for row in rows - 1 if row[0] >= 0]
    assert used == chosen.tolist()


def test_validation_is_the_same_every_time() -> None:
    loader = ValidationBatches(windows(50), Share(4))
    first, second = joined(list(loader)), joined(list(loader))
    assert len(loader) == len(list(loader)) == 4
    assert torch.equal(first["labels"], second["labels"])


@given(st.sets(st.integers(1, 39), max_size=8), st.integers(0, 20))
def test_tokens_share_a_document_number_exactly_when_they_share_a_document(borders: set[int], step: int) -> None:
    file = windows(41, sequence_length=8, starts=[0, *sorted(borders)])
    batch = TrainingBatches(file, Share(3), steps=100, seed=1)[step]
    assert batch["documents"].shape == batch["tokens"].shape
    for tokens, documents in zip(batch["tokens"].tolist(), batch["documents"].tolist(), strict=True):
        for left in range(8):
            for right in range(left, 8):
                crossed = any(tokens[left] < border <= tokens[right] for border in borders)
                assert (documents[left] == documents[right]) == (not crossed)


def test_documents_are_absent_unless_they_are_isolated() -> None:
    assert set(TrainingBatches(windows(50), Share(2), steps=1, seed=0)[0]) == {"tokens", "labels"}


class Recorder(L.LightningModule):
    """Trains nothing in earnest and writes down which batches Lightning hands over."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.automatic_optimization = False
        self.trained: list[tuple[int, list[int]]] = []
        self.validated: list[list[int]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch: dict[str, Tensor], index: int) -> None:
        self.trained.append((self.global_step, batch["tokens"][:, 0].tolist()))
        self.optimizers().step()

    def validation_step(self, batch: dict[str, Tensor], index: int) -> None:
        self.validated.append(batch["tokens"][:, 0].tolist())


def fit(folder: Path, steps: int, resume: Path | None = None, **options: Any) -> Recorder:
    recorder = Recorder()
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=1,
        val_check_interval=2,
        check_val_every_n_epoch=None,
        callbacks=[L.pytorch.callbacks.ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1)],
        **options,
    )
    training = TrainingBatches(windows(50), Share(4), steps=steps, seed=7)
    trainer.fit(recorder, training, ValidationBatches(windows(20), Share(4)), ckpt_path=resume, weights_only=False)
    return recorder


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Recorder]:
    folder = tmp_path_factory.mktemp("checkpoints")
    return folder, fit(folder, steps=8)


def test_lightning_gets_one_batch_a_step_and_all_validation_batches(uninterrupted: tuple[Path, Recorder]) -> None:
    _, recorder = uninterrupted
    batches = TrainingBatches(windows(50), Share(4), steps=8, seed=7)
    assert recorder.trained == [(step, batches[step]["tokens"][:, 0].tolist()) for step in range(8)]
    validation = [batch["tokens"][:, 0].tolist() for batch in ValidationBatches(windows(20), Share(4))]
    assert recorder.validated == validation[:1] + 4 * validation  # the sanity check, then every second step


@pytest.mark.parametrize("step", [1, 2, 5, 7])
@pytest.mark.parametrize("steps", [8, 11])
def test_a_run_resumed_by_lightning_neither_repeats_nor_misses_a_batch(
    uninterrupted: tuple[Path, Recorder], tmp_path: Path, step: int, steps: int
) -> None:
    folder, whole = uninterrupted
    resumed = fit(tmp_path, steps=steps, resume=folder / f"step={step}.ckpt")
    assert resumed.trained[: 8 - step] == whole.trained[step:]
    assert [done for done, _ in resumed.trained] == list(range(step, steps))


def test_a_finished_run_can_be_made_longer(uninterrupted: tuple[Path, Recorder], tmp_path: Path) -> None:
    folder, _ = uninterrupted
    longer = fit(tmp_path, steps=11, resume=folder / "step=8.ckpt")
    batches = TrainingBatches(windows(50), Share(4), steps=11, seed=7)
    assert longer.trained == [(step, batches[step]["tokens"][:, 0].tolist()) for step in range(8, 11)]
