"""What the name of a metric tells."""

import pytest

from eyas.experiments.metric_names import at_length, higher_is_better, in_order


def test_metrics_stand_in_the_order_of_what_was_learnt_what_it_cost_and_at_which_length() -> None:
    names = {
        "seconds", "a@16", "accuracy", "a@2", "train_loss", "parameters", "validation_loss", "zeta", "recall_accuracy",
        "uniform_loss",
    }  # fmt: skip
    assert in_order(names) == (
        "validation_loss", "accuracy", "recall_accuracy", "train_loss", "parameters", "seconds", "uniform_loss", "zeta",
        "a@2", "a@16",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "higher"),
    [
        ("accuracy@256", True), ("mqar/accuracy", True), ("exact_match", True), ("tokens_per_second", True),
        ("validation/loss", False), ("word_perplexity", False), ("memory_gib", False), ("step_seconds", False),
        ("t/brier_score", False), ("parameters", None), ("unigram_loss", None), ("acc_stderr", None),
    ],
)  # fmt: skip
def test_which_way_a_metric_is_better(metric: str, higher: bool | None) -> None:
    assert higher_is_better(metric) is higher


def test_a_length_stands_behind_the_last_at_sign() -> None:
    assert [at_length(name) for name in ("accuracy@256", "a@b@8", "accuracy", "@8", "loss@long")] == [
        ("accuracy", 256), ("a@b", 8), None, None, None,
    ]  # fmt: skip
