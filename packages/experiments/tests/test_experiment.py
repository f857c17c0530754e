"""Rules are read as they are meant, or refused in a line."""

import pytest

from eyas.core.errors import ConfigError
from eyas.core.schema import load
from eyas.experiments.experiment import ExperimentConfig
from eyas.experiments.rules import Rule, Trend, TrendRule, read_rule


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("accuracy >= 0.95", Rule("accuracy", ">=", 1, None, 0.95)),
        ("validation_loss<unigram_loss", Rule("validation_loss", "<", 1, "unigram_loss", 0)),
        ("validation_loss <= 0.8 * unigram_loss - .1", Rule("validation_loss", "<=", 0.8, "unigram_loss", -0.1)),
        (
            "mqar/accuracy@256 > 5e-1 at step 500 where model=hybrid",
            Rule("mqar/accuracy@256", ">", 1, None, 0.5, 500, (("model", "hybrid"),)),
        ),
        (
            "accuracy >= accuracy + 0.5 where model.pattern=[ssm, attn] and model.repeat=1 against model.pattern=[ssm]",
            Rule(
                "accuracy", ">=", 1, "accuracy", 0.5, None,
                (("model.pattern", "[ssm, attn]"), ("model.repeat", "1")), (("model.pattern", "[ssm]"),),
            ),
        ),
        (
            "train/loss < train/loss at every step where upcycle=a|b against upcycle=c",
            Rule("train/loss", "<", 1, "train/loss", 0, "every", (("upcycle", "a|b"),), (("upcycle", "c"),)),
        ),
        ("loss <= 1.03 * loss against all", Rule("loss", "<=", 1.03, "loss", 0, None, (), ())),
        (
            "spearman(validation_loss, allocation.shares[1]) > .8 at step 9 where allocation.order=SAM",
            TrendRule(
                Trend("spearman", "validation_loss", ("allocation.shares[1]",)), ">", 0.8, 9,
                (("allocation.order", "SAM"),),
            ),
        ),
        (
            "spread( loss , order ) < spread(loss,shares[1])",
            TrendRule(Trend("spread", "loss", ("order",)), "<", Trend("spread", "loss", ("shares[1]",))),
        ),
        (
            "shift(loss, optimizer.learning_rate, model.hidden_size) <= 1",
            TrendRule(Trend("shift", "loss", ("optimizer.learning_rate", "model.hidden_size")), "<=", 1.0),
        ),
    ],
)  # fmt: skip
def test_a_rule_is_read(text, rule):
    assert read_rule(text) == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accuracy", "cannot be read; write METRIC"),
        ("accuracy == 1", "cannot be read; write METRIC"),
        ("accuracy >= 0.9 0.8", "cannot be read; write METRIC"),
        ("accuracy >= 0.9 at step 0", "steps are counted from 1"),
        ("accuracy >= 0.9 where model", "'model' selects nothing; write OPTION=VALUE"),
        ("accuracy >= 0.9 where model=a|", "'model=a|' selects nothing; write OPTION=VALUE"),
        ("accuracy >= 0.9 against all", "give a metric as its bound"),
        ("accuracy >= accuracy + -0.3 against all", "cannot be read; write METRIC"),
        ("accuracy >= 0.9 where model=a at step 5", "'at step' stands in the wrong place; write METRIC"),
        ("accuracy >= accuracy against model=a where model=b", "'where' stands in the wrong place"),
        ("accuracy >= accuracy + 0.3 against all where model=a", "'where' stands in the wrong place"),
        ("accuracy >= 0.9 where where model=a", "'where' stands in the wrong place"),
        ("accuracy >= 0.9 where model=a and seed=1", "means over seeds; leave out seed=1"),
        (r"spearman(loss) > 0.8", "spearman takes a metric and an option; write spearman"),
        (r"shift(loss, width) > 0.8", "shift takes a metric and two options; write spearman"),
        (r"spread(loss, order) > 0.8 at step 0", "steps are counted from 1"),
        (r"spread(loss, order) > 0.8 at every step", "cannot be read; write spearman"),
        (r"spread(loss, order) > 2 * loss", "cannot be read; write spearman"),
        (r"spread(loss, order) > 1 against all", "cannot be read; write spearman"),
        (r"spread(loss, order) > 1 where order=a against all", "'against' stands in the wrong place; write spearman"),
        (r"spread(loss, seed) > 1", "spread cannot go by seed"),
    ],
)
def test_what_is_no_rule_is_refused_by_its_place(text, message):
    with pytest.raises(ConfigError, match=rf"^experiment.passes\[1\]: .*{message}"):
        load(ExperimentConfig, {"passes": ["accuracy >= 0.9", text]}, "experiment")
