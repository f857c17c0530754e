"""What an experiment asks: its question, its budget, and the rules that its runs pass or fail."""

from __future__ import annotations

from dataclasses import dataclass

from eyas.core.errors import ConfigError
from eyas.experiments.rules import read_rule


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """The `experiment` options: what the runs are made for. They change nothing in a run; `eyas report` reads them."""

    question: str | None = None
    """What the runs are to answer."""
    budget: str | None = None
    """What they may cost, in words."""
    follows: str | None = None
    """The experiment whose runs these go on from, to be trained first."""
    passes: tuple[str, ...] = ()
    """Rules such as `accuracy >= 0.95 where model=hybrid` (see `rules.py`), that the report evaluates."""
    columns: str | None = None
    """An option, such as `task`, whose values are columns of tables instead of rows."""
    shows: tuple[str, ...] = ()
    """The metrics that tables show, in this order; the usual ones where none are named."""

    def __post_init__(self) -> None:
        for index, text in enumerate(self.passes):
            try:
                read_rule(text)
            except ConfigError as error:
                raise ConfigError(f"passes[{index}]: {error}") from error
