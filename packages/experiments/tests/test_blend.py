"""Several texts in exact shares."""

import math
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError, DataError
from eyas.core.schema import load
from eyas.experiments.batches import Share, TrainingBatches
from eyas.experiments.blend import drawn
from eyas.experiments.data_config import DataConfig
from eyas.experiments.prepare import prepare
from eyas.experiments.validation import TextValidation
from eyas.experiments.windows import Sequences, Windows
from eyas.parallel.indexed import TokenFile

parts = st.lists(st.integers(1, 9), min_size=2, max_size=5)


def fractions(weights: list[int]) -> list[Fraction]:
    return [Fraction(weight, sum(weights)) for weight in weights]


@given(parts)
def test_shares_are_exact_and_spread_evenly(weights: list[int]) -> None:
    shares, counts = fractions(weights), Counter[int]()
    for number in range(3 * sum(weights)):
        text, before = drawn(shares, number)
        assert before == counts[text]
        counts[text] += 1
        for each, share in enumerate(shares):
            assert abs(counts[each] - (number + 1) * share) < len(weights)
        if (number + 1) % sum(weights) == 0:
            assert [counts[each] for each in range(len(weights))] == [(number + 1) * share for share in shares]


def test_the_order_of_texts_is_pinned_for_all_time() -> None:
    order = [drawn([Fraction(1, 2), Fraction(1, 5), Fraction(3, 10)], number)[0] for number in range(10)]
    assert order == [2, 0, 2, 0, 1, 0, 2, 0, 1, 0]


def blend(lengths: list[int], weights: list[int]) -> dict[str, tuple[Fraction, Sequences]]:
    """A text for each, in which every token tells text and place."""
    texts = [
        Windows(TokenFile(np.arange(length) + 1000 * index, np.zeros(1, np.int64)), sequence_length=4)
        for index, length in enumerate(lengths)
    ]
    shares = fractions(weights)
    return {f"text{index}": (shares[index], text) for index, text in enumerate(texts)}


blends = st.integers(2, 4).flatmap(
    lambda number: st.builds(
        blend,
        st.lists(st.integers(6, 60), min_size=number, max_size=number),
        st.lists(st.integers(1, 9), min_size=number, max_size=number),
    )
)


@given(blends, st.integers(1, 3), st.integers(1, 4), st.integers(0, 12), st.integers(0, 3))
def test_any_layout_resumed_anywhere_sees_what_one_process_sees(
    texts: dict[str, tuple[Fraction, Sequences]], each: int, ranks: int, served: int, seed: int
) -> None:
    size = each * ranks
    whole = [batch["tokens"] for batch in TrainingBatches(texts, Share(size), steps=12, seed=seed)]
    first = TrainingBatches(texts, Share(size), steps=12, seed=seed)
    for _ in zip(range(served), first, strict=False):
        pass
    resumed = []
    for rank in range(ranks):
        loader = TrainingBatches(texts, Share(size, rank, ranks), steps=12, seed=seed)
        loader.load_state_dict(first.state_dict())
        resumed.append([batch["tokens"] for batch in loader])
    assert len(resumed[0]) == 12 - served
    for step, shares in enumerate(zip(*resumed, strict=True), start=served):
        assert torch.equal(torch.cat(shares), whole[step])


@given(blends, st.integers(1, 5), st.integers(0, 3))
def test_every_sequence_of_a_text_is_used_once_an_epoch(
    texts: dict[str, tuple[Fraction, Sequences]], size: int, seed: int
) -> None:
    batches = TrainingBatches(texts, Share(size), steps=10**6, seed=seed)
    served = [pair for step in range(200 // size) for pair in batches.rows(batches.numbers(step))]
    for index, (_, sequences) in enumerate(texts.values()):
        mine = [row for text, row in served if text == index]
        for first in range(0, len(mine) - sequences.whole + 1, sequences.whole):
            assert sorted(mine[first : first + sequences.whole]) == list(range(sequences.whole))


def test_the_order_of_an_absent_text_is_kept() -> None:
    batches = TrainingBatches(blend([200, 200], [9, 1]), Share(2), steps=9, seed=0)
    orders = set()
    for step in range(9):
        batches.rows(batches.numbers(step))
        orders |= {id(order) for epochs in batches.texts for order in epochs.orders.values()}
    assert len(orders) == 2


def test_texts_of_the_same_size_have_orders_of_their_own() -> None:
    texts = blend([200, 200], [1, 1])
    batches = TrainingBatches(texts, Share(40), steps=1, seed=0)
    rows = batches.rows(batches.numbers(0))
    assert [row for text, row in rows if text == 0] != [row for text, row in rows if text == 1]


@pytest.fixture
def config(tmp_path: Path) -> dict[str, Any]:
    """Two folders of texts."""
    for name, words in (("code", ("def", "return", "yield")), ("talk", ("well", "yes", "so"))):
        (tmp_path / name).mkdir()
        for number in range(12):
            (tmp_path / name / f"{number}.txt").write_text(" ".join(words[(number + i) % 3] for i in range(40)))
    return {
        "vocab_size": 262,
        "sequence_length": 16,
        "cache": str(tmp_path / "cache"),
        "blend": {
            "code": {"weight": 0.7, "files": f"{tmp_path}/code/*.txt"},
            "talk": {"weight": 0.3, "files": f"{tmp_path}/talk/*.txt"},
        },
    }


def read(config: dict[str, Any], **changes: Any) -> DataConfig:
    return load(DataConfig, {**config, **changes}, "data")


def test_a_file_in_two_parts_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    both = {"weight": 0.3, "files": f"{tmp_path}/*/*.txt"}
    with pytest.raises(DataError, match=r"0.txt is in data.blend.code.* and in data.blend.talk.*one of them$"):
        prepare(read(config, blend=config["blend"] | {"talk": both}))


def test_weights_change_no_tokens_and_a_text_changes_all_that_learn_from_it(
    config: dict[str, Any], tmp_path: Path
) -> None:
    first = prepare(read(config))
    blend = config["blend"]
    weights = {"code": {**blend["code"], "weight": 0.25}, "talk": {**blend["talk"], "weight": 0.75}}
    assert prepare(read(config, blend=weights)) == first
    (tmp_path / "talk" / "3.txt").write_text("other words " * 20)
    again = prepare(read(config))
    assert all(again.texts[name].directory != first.texts[name].directory for name in blend)
    assert first.tokenizer is not None and again.tokenizer is not None
    assert again.tokenizer.read_bytes() != first.tokenizer.read_bytes()


def test_with_a_tokenizer_of_its_own_a_text_is_prepared_once_for_every_blend(
    config: dict[str, Any], tmp_path: Path
) -> None:
    learnt = prepare(read(config)).tokenizer
    given = {**config, "tokenizer": str(learnt)}
    first = prepare(read(given))
    (tmp_path / "talk" / "3.txt").write_text("other words " * 20)
    again = prepare(read(given))
    assert again.texts["code"] == first.texts["code"]
    assert again.texts["talk"].directory != first.texts["talk"].directory


class Engine:
    """Tells the loss and the labels of a batch that says them itself."""

    def evaluate(self, microbatches: Any) -> tuple[float, int]:
        (batch,) = microbatches
        return batch["loss"] * batch["labels"], batch["labels"]


def test_validation_tells_each_text_and_their_mean_by_share(config: dict[str, Any]) -> None:
    validation = TextValidation(["code", "code", "talk"], read(config))
    for loss, labels in ((2.0, 10), (4.0, 30), (1.0, 7)):
        validation.add(Engine(), [{"loss": loss, "labels": labels}])
    metrics = validation.metrics()
    assert metrics == {"loss": pytest.approx(0.7 * 3.5 + 0.3 * 1.0), "loss_code": 3.5, "loss_talk": 1.0}


A = {"weight": 0.5, "files": "a/*.txt"}


@pytest.mark.parametrize(
    ("blend", "message"),
    [
        ({"a": A, "b": {**A, "weight": 0.4}}, r"data\.blend: the weights are 0\.5 \+ 0\.4 = 0\.9, but shares are 1"),
        ({"a": A, "b": {**A, "weight": -0.5}}, r"data\.blend\.b\.weight=-0\.5 must be above 0"),
        ({"a": A, "b": {**A, "weight": math.nan}}, r"data\.blend\.b\.weight=nan must be above 0"),
        ({"a": A, "b": {"weight": 0.5}}, r"data\.blend\.b\.files: a value is required"),
        ({"a": A, "b": {**A, "files": ""}}, r"data\.blend\.b\.files is empty"),
        ({"a": A, "b/c": A}, r"data\.blend: 'b/c' is no name for metrics"),
        ({"a": {**A, "weight": 1.0}}, r"data\.blend mixes two texts or more"),
        ({"a": A, "b": {**A, "wieght": 0.5}}, r"data\.blend\.b: unknown option 'wieght'; did you mean 'weight'"),
        ({"a": A, "b": {**A, "files": "b/*.bin"}}, r"data\.blend\.b\.files holds tokens and others .* data\.tokenizer"),
    ],
)
def test_blends_that_make_no_sense_are_refused_by_name(blend: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        load(DataConfig, {"blend": blend}, "data")


def test_a_blend_leaves_no_other_files(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"^data\.files=x says what to read, and so does data\.blend"):
        read(config, files="x")


def test_a_third_each_is_meant_as_a_third_each() -> None:
    thirds = {name: {**A, "weight": 0.333333} for name in "abc"}
    assert [text.share for text in load(DataConfig, {"blend": thirds}, "data").texts] == [Fraction(1, 3)] * 3
