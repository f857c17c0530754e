"""Adam's moments in the host's memory: the same steps, and only some of the moments beside the weights at once."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import ConfigError
from eyas.parallel import offload
from eyas.parallel.adam_state import MOMENTS
from eyas.parallel.offload import MomentsOnHost, first_weights
from eyas.parallel.options import OptimizerOptions


class HostTensor(torch.Tensor):
    """A tensor in the host's memory, where the CPU stands for a GPU."""


@pytest.fixture(scope="module", autouse=True)
def host():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offload, "place_on_host", lambda weight: torch.zeros(weight.shape).as_subclass(HostTensor))
        yield


class FusedAdam(torch.optim.Optimizer):
    """Counts its steps and loads its state as transformer-engine's does: a count for each group in each call, also of
    an empty one, and moments made anew beside the weights."""

    def __init__(self, groups, fused):
        super().__init__(groups, {"fused": fused})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state.update({name: torch.zeros_like(weight) for name in MOMENTS})
                first, second = (state[name] for name in MOMENTS)
                first.lerp_(weight.grad, 0.1)
                second.lerp_(weight.grad.square(), 0.01)
                weight.sub_(group["lr"] * first / (second.sqrt() + 1e-8) / group["step"])

    def load_state_dict(self, state):
        super().load_state_dict(state)
        for weight, loaded in list(self.state.items()):
            self.state[weight] = {name: value.clone() for name, value in loaded.items()}


KINDS = [torch.optim.AdamW, FusedAdam]


def two_of(kind, sizes, seed):
    """The same weights twice, in groups of two learning rates, each with an optimizer."""
    draw = torch.Generator().manual_seed(seed)
    values = [torch.randn(size, generator=draw) for size in sizes]
    optimizers = []
    for _ in range(2):
        weights = [value.clone().requires_grad_() for value in values]
        groups = [{"params": weights[0::2], "lr": 0.1}, {"params": weights[1::2], "lr": 0.01}]
        optimizers.append(kind(groups, fused=True))
    return optimizers


def step(optimizer, seed):
    draw = torch.Generator().manual_seed(seed)
    for weight in weights_of(optimizer):
        weight.grad = torch.randn(weight.shape, generator=draw)
    optimizer.step()


def identities(weights):
    return {id(weight) for weight in weights}


def weights_of(optimizer):
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def away(optimizer):
    """The weights whose moments are all on the host."""
    kept = {
        id(weight): {type(state[name]) for name in MOMENTS} for weight, state in optimizer.state.items() if len(state)
    }
    assert all(len(kinds) == 1 for kinds in kept.values()), "one moment of a weight without the other"
    return {weight for weight, kinds in kept.items() if kinds == {HostTensor}}


SIZES = st.lists(st.integers(0, 30), min_size=1, max_size=8)


@given(
    kind=st.sampled_from(KINDS),
    sizes=SIZES,
    share=st.floats(0, 1),
    at_once=st.integers(1, 60),
)
def test_steps_are_the_same_bit_for_bit(kind, sizes, share, at_once):
    plain, offloaded = two_of(kind, sizes, seed=len(sizes))
    chosen = identities(first_weights(offloaded.param_groups, share))
    MomentsOnHost(offloaded, share).at_once = at_once
    assert away(offloaded) == chosen
    for number in range(3):
        step(plain, number)
        step(offloaded, number)
        assert away(offloaded) == chosen
    for expected, actual in zip(weights_of(plain), weights_of(offloaded), strict=True):
        assert torch.equal(actual, expected)
        assert plain.state[expected].get("step") == offloaded.state[actual].get("step")
    assert [group.get("step") for group in plain.param_groups] == [
        group.get("step") for group in offloaded.param_groups
    ]


@given(sizes=SIZES, share=st.floats(0, 1), at_once=st.integers(1, 60))
def test_few_moments_are_beside_the_weights_at_once(sizes, share, at_once):
    _, optimizer = two_of(torch.optim.AdamW, sizes, seed=0)
    chosen = identities(first_weights(optimizer.param_groups, share))
    moments = MomentsOnHost(optimizer, share)
    moments.at_once = at_once
    step_with, seen = moments.step_with, []

    def watched():
        step_with()
        here = [w.numel() for w, state in optimizer.state.items() if state and id(w) in chosen - away(optimizer)]
        seen.append(here)

    moments.step_with = watched
    for number in range(2):
        step(optimizer, number)
    assert all(sum(here) <= at_once or len(here) == 1 for here in seen)
    assert sum(len(here) for here in seen) == 2 * len(chosen)


@given(sizes=SIZES, share=st.floats(0, 1))
def test_the_share_is_reached_by_the_first_weights(sizes, share):
    weights = [torch.zeros(size) for size in sizes]
    chosen = identities(first_weights([{"params": weights}], share))
    entries = [weight.numel() for weight in weights if id(weight) in chosen]
    assert chosen == {id(weight) for weight in weights[: len(chosen)]}
    assert sum(entries) >= share * sum(sizes)
    assert not entries or sum(entries[:-1]) < share * sum(sizes)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_state_goes_to_the_host_and_goes_on(kind, share):
    plain, optimizer = two_of(kind, [3, 4, 5, 6], seed=0)
    MomentsOnHost(optimizer, share)
    step(plain, 0)
    optimizer.load_state_dict(deepcopy(plain.state_dict()))
    for weight, other in zip(weights_of(optimizer), weights_of(plain), strict=True):
        weight.data.copy_(other)
    assert away(optimizer) == identities(first_weights(optimizer.param_groups, share))
    step(plain, 1)
    step(optimizer, 1)
    assert all(map(torch.equal, weights_of(optimizer), weights_of(plain)))


def test_an_optimizer_with_moments_is_refused():
    optimizer, _ = two_of(torch.optim.AdamW, [3], seed=0)
    step(optimizer, 0)
    with pytest.raises(AssertionError, match="would be lost"):
        MomentsOnHost(optimizer, 1.0)


def test_a_machine_without_a_gpu_refuses():
    with pytest.raises(ConfigError, match=r"optimizer.cpu_offload=0.5 keeps moments .* has no GPU .* set it to 0"):
        OptimizerOptions(cpu_offload=0.5).check_device(gpu=False)
    OptimizerOptions(cpu_offload=0.5).check_device(gpu=True)
