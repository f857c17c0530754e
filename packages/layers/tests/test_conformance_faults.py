"""The conformance kit finds what is wrong with a mixer: each law fails on a feed-forward layer with one fault."""

from dataclasses import replace
from unittest.mock import patch

import mixers
import pytest
import torch

from eyas.core.errors import ConfigError, LayoutError, UnsupportedError
from eyas.layers.mlp import MLP
from eyas.layers.testing import checkpoints, costs, laws, layouts, shards
from eyas.layers.testing.case import Case
from eyas.parallel import checkpoint

CASE = Case(options={"kind": "mlp", "intermediate_size": 8}, hidden_size=8, length=12, batch=2, seed=1)
forward, step, Config = MLP.forward, MLP.step, MLP.Config


def looks_ahead(self, x_SBD, context):
    return forward(self, x_SBD, context) + x_SBD.flip(0)


def sums_over_documents(self, x_SBD, context):
    return forward(self, x_SBD.cumsum(0), context)


def adds_a_trace_of_the_row(self, x_SBD, context):
    return forward(self, x_SBD, context) + 1e-14 * x_SBD.cumsum(0)


def answers_in_float32(self, x_SBD, context):
    return forward(self, x_SBD, context).float()


def overflows(self, x_SBD, context):
    return forward(self, x_SBD, context) / 0


def hides_the_input_from_the_gradient(self, x_SBD, context):
    return forward(self, x_SBD, context) + x_SBD.detach()


def overstates_its_gradient(self, x_SBD, context):
    y_SBD = forward(self, x_SBD, context)
    return y_SBD + 1e-5 * (y_SBD - y_SBD.detach())


def leaves_a_weight_without_gradient(self, x_SBD, context):
    return torch.nn.functional.linear(torch.nn.functional.linear(x_SBD, self.gate), self.down)


def drops_the_last_token(self, x_SBD, context):
    return forward(self, x_SBD, context)[:-1]


def steps_twice_as_far(self, x_BD, state, context):
    return 2 * step(self, x_BD, state, context)[0], state


def counts_its_steps(self, x_BD, state, context):
    self.steps = getattr(self, "steps", 0) + 1
    return self.steps * step(self, x_BD, state, context)[0], state


def one_more(cost):
    return lambda *arguments: cost(*arguments) + 1


FAULTS = [
    (laws.token_changes_nothing_before_it, MLP, "forward", looks_ahead, "the output before token 1"),
    (laws.token_changes_nothing_before_it, MLP, "forward", drops_the_last_token, "the output has shape"),
    (laws.decoding_equals_forward, MLP, "step", steps_twice_as_far, "token by token differs"),
    (laws.step_leaves_its_state, MLP, "step", counts_its_steps, "token 0 again gives another output"),
    (laws.documents_are_kept_apart, MLP, "forward", sums_over_documents, "the result differs"),
    (laws.no_document_leaks, MLP, "forward", adds_a_trace_of_the_row, "a document of their own, but"),
    (laws.results_have_the_dtype_of_the_input, MLP, "forward", answers_in_float32, "the output is torch.float32"),
    (laws.results_have_the_dtype_of_the_input, MLP, "forward", overflows, "the output is not finite"),
    (laws.gradients_are_derivatives, MLP, "forward", hides_the_input_from_the_gradient, "derivative along input"),
    (laws.gradients_are_derivatives, MLP, "forward", overstates_its_gradient, "derivative along gate"),
    (laws.gradients_are_derivatives, MLP, "forward", leaves_a_weight_without_gradient, "no gradient reaches up"),
    (costs.parameters_are_those_of_every_rank, Config, "parameters", one_more(Config.parameters), "parameters states"),
    (costs.flops_are_those_counted, Config, "flops", one_more(Config.flops), "flops states"),
    (costs.activation_bytes_are_those_kept, Config, "activation_bytes", one_more(Config.activation_bytes), "are kept"),
    (costs.state_bytes_are_those_of_the_state, Config, "state_bytes", one_more(Config.state_bytes), "are held"),
]


@pytest.mark.parametrize(("law", "where", "name", "fault", "message"), FAULTS, ids=[fault[-1] for fault in FAULTS])
def test_a_fault_is_found(law, where, name, fault, message, monkeypatch):
    law(CASE)
    monkeypatch.setattr(where, name, fault)
    with pytest.raises(AssertionError, match=message):
        law(CASE)


def test_documents_that_a_mixer_does_not_carry_are_refused(monkeypatch):
    monkeypatch.setattr(Config, "carries_documents", False)
    with pytest.raises(ConfigError, match="mlp cannot keep packed documents apart"):
        CASE.module()(CASE.x(), mixers.alone(mixers.documents(12, 2)))
    laws.documents_are_kept_apart(CASE)
    with pytest.raises(pytest.skip.Exception, match="mlp refuses documents"):
        laws.no_document_leaks(CASE)


def test_sequences_that_a_mixer_does_not_share_are_refused(monkeypatch):
    monkeypatch.setattr(Config, "carries_context", False)
    with pytest.raises(ConfigError, match="mlp cannot share sequences with other ranks; .* or layout.context=1"):
        CASE.module()(CASE.x(), replace(mixers.alone(), pieces=object()))


def test_a_mixer_that_takes_documents_it_does_not_carry_is_found(monkeypatch):
    monkeypatch.setattr(Config, "carries_documents", False)
    monkeypatch.setattr(MLP, "__call__", forward)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        laws.documents_are_kept_apart(CASE)


@pytest.mark.parametrize("cost", ["activation_bytes", "state_bytes"])
def test_a_mixer_that_states_no_cost_is_named(cost, monkeypatch):
    monkeypatch.delattr(Config, cost)
    with pytest.raises(UnsupportedError, match=f"mlp does not state its {cost}"):
        getattr(costs, f"{cost}_are_those_{'kept' if cost == 'activation_bytes' else 'of_the_state'}")(CASE)


def trains_with_a_bias_on_every_rank(trial, layout):
    """What a rank does where the mixer adds to its partial sum what the block adds once."""
    with patch.object(MLP, "forward", lambda self, x_SBD, context: forward(self, x_SBD, context) + 1.0):
        return layouts.train_here(trial, layout)


def loads_something_else(trial, layout, path):
    """What a rank does whose parts of the weights are not those that were saved."""

    def spoiled(template, path):
        state = load(template, path)
        return state | {"model": {name: weight + 1.0 for name, weight in state["model"].items()}}

    load = checkpoint.load
    with patch.object(checkpoint, "load", spoiled):
        return checkpoints.load_here(trial, layout, path)


def test_a_layout_that_changes_the_training_is_found(monkeypatch):
    monkeypatch.setattr(layouts, "train_here", trains_with_a_bias_on_every_rank)
    with pytest.raises(AssertionError, match="loss of step 0 under layout of tensor 2 differs"):
        shards.layout_changes_nothing(CASE, "tensor", drawn=False)


def test_a_checkpoint_that_loads_as_something_else_is_found(monkeypatch):
    monkeypatch.setattr(checkpoints, "load_here", loads_something_else)
    with pytest.raises(AssertionError, match="is not what was saved after loading it under layout of tensor 2"):
        shards.checkpoint_loads_on_another_layout(CASE, drawn=False)


def test_heads_that_ranks_cannot_share_are_a_mistake_and_mixers_without_them_are_passed_over():
    options = {"kind": "linear_attention", "num_heads": 3, "head_dim": 2}
    odd = Case(options=options, hidden_size=8, length=4, batch=1, seed=0)
    with pytest.raises(
        LayoutError, match="linear_attention.num_heads=3 leaves 3 .* which layout.context=2 ranks cannot"
    ):
        shards.layout_changes_nothing(odd, "exchanged heads", drawn=False)
    with pytest.raises(pytest.skip.Exception, match="mlp exchanges no heads"):
        shards.layout_changes_nothing(CASE, "exchanged heads", drawn=False)


def test_options_that_no_ranks_can_share_are_a_mistake():
    odd = Case(options={"kind": "mlp", "intermediate_size": 5}, hidden_size=8, length=4, batch=1, seed=0)
    with pytest.raises(ConfigError, match="mlp.intermediate_size=5 cannot be split over layout.tensor=2"):
        shards.layout_changes_nothing(odd, "tensor", drawn=False)
