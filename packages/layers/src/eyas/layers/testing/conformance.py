"""The conformance kit: what a mixer must show, one test for each law.

    class TestAttention(Conformance):
        options = {"kind": "attention", "num_heads": 4, "head_dim": 8}

in a test file is all that it takes: pytest finds the laws.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.strategies import SearchStrategy

from eyas.layers.testing import costs, laws, shards
from eyas.layers.testing.case import Case, cases

GIVEN = 20
"""Most cases of options that are given, of which only seeds and sizes of the input vary."""
WORKERS_SHARE, ON_WORKERS = 4, 8
"""A law that starts workers is shown on one case where the others are shown on four, and on eight at most."""


class Conformance:
    """Subclass it as `Test...` with the options of a registered mixer, and pytest runs every law on cases that
    hypothesis draws: as many as its profile says, at most 20 of options that are given, and a quarter where workers
    compute, at most eight. They bear the mark `hypothesis`, as all tests that draw do."""

    pytestmark = pytest.mark.hypothesis

    options: ClassVar[Mapping[str, Any] | SearchStrategy[Any]]
    """What YAML would say, `kind` and options that two, three or four ranks can share; or a strategy that draws it."""
    hidden_size: ClassVar[int] = 16
    flops_by_convention: ClassVar[str] = ""
    """Why torch's counter cannot confirm `flops`, for a mixer whose operations are counted by a convention."""

    def test_a_token_changes_nothing_before_it(self) -> None:
        self.show(laws.token_changes_nothing_before_it)

    def test_decoding_equals_the_forward_pass(self) -> None:
        self.show(laws.decoding_equals_forward)

    def test_a_step_leaves_its_state_as_it_was(self) -> None:
        self.show(laws.step_leaves_its_state)

    def test_documents_are_kept_apart_or_refused(self) -> None:
        self.show(laws.documents_are_kept_apart)

    def test_no_document_leaks_into_another(self) -> None:
        self.show(laws.no_document_leaks)

    def test_results_have_the_dtype_of_the_input(self) -> None:
        self.show(laws.results_have_the_dtype_of_the_input)

    def test_gradients_are_derivatives(self) -> None:
        self.show(laws.gradients_are_derivatives)

    def test_parameters_are_those_of_every_rank(self) -> None:
        self.show(costs.parameters_are_those_of_every_rank)

    def test_flops_are_those_counted(self) -> None:
        if self.flops_by_convention:
            pytest.skip(self.flops_by_convention)
        self.show(costs.flops_are_those_counted)

    def test_activation_bytes_are_those_kept(self) -> None:
        self.show(costs.activation_bytes_are_those_kept)

    def test_state_bytes_are_those_of_the_state(self) -> None:
        self.show(costs.state_bytes_are_those_of_the_state)

    @pytest.mark.parametrize("kind", shards.LAYOUTS)
    def test_a_layout_changes_nothing(self, kind: str) -> None:
        self.show_on_workers(lambda case: shards.layout_changes_nothing(case, kind, drawn=self.drawn))

    def test_a_checkpoint_loads_on_another_layout(self) -> None:
        self.show_on_workers(lambda case: shards.checkpoint_loads_on_another_layout(case, drawn=self.drawn))

    @property
    def drawn(self) -> bool:
        """Whether the options are drawn."""
        return isinstance(self.options, SearchStrategy)

    def show(self, law: Callable[[Case], None], share: int = 1, limit: int | None = None) -> None:
        """Calls the law with cases drawn by hypothesis; where it does not hold, the report names a small case."""
        profile = settings().max_examples
        most = -(-(profile if self.drawn else min(profile, GIVEN)) // share)

        @settings(
            max_examples=most if limit is None else min(most, limit),
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=cases(self.options, self.hidden_size))
        def holds(case: Case) -> None:
            law(case)

        holds()

    def show_on_workers(self, law: Callable[[Case], None]) -> None:
        """`show`, for a law that starts workers."""
        self.show(law, WORKERS_SHARE, ON_WORKERS)
