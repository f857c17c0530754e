"""A block: norm, mixers side by side, one residual add. The block owns the communication; its mixers have none."""

# S sequence, s this rank's part of it, B batch, D hidden

from collections.abc import Mapping
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from eyas.core.block_config import BlockConfig, BlockSpec
from eyas.core.mixer import Mixer, Placement, empty_parameter
from eyas.core.model import ModelSpec
from eyas.core.recompute import NORM, recomputes
from eyas.core.registry import mixer
from eyas.core.weights import replicated
from eyas.layers.adapters import forward_with, further_with
from eyas.layers.gathered import Gathered
from eyas.layers.linear import linear
from eyas.layers.norm import RMSNorm
from eyas.layers.recompute import block_output, recomputed
from eyas.parallel.context import Context
from eyas.parallel.regions import region

Changed = Mapping[str, Mapping[str, Tensor]]
"""By layer: weights that take the place of the mixer's own."""
NOTHING: Changed = {}


class Branches(nn.Module):
    """sum of branch(norm(x)), or the mean of the branches' outputs, each behind an RMSNorm of its own: one gather
    whatever the number of branches, and for the sum one reduction; none for those that work on each rank's own tokens.
    What a shared block shares.

    A rank may hold one of two branches alone (`pair` is the number of such blocks before): the sum over the ranks is
    the same."""

    def __init__(self, spec: ModelSpec, block: BlockSpec, place: Placement, pair: int = 0) -> None:
        super().__init__()
        self.options, self.layers = block.options, block.layers
        self.norm = RMSNorm(block.input_width(spec.hidden_size), spec.norm_epsilon, place)
        layers = {name: spec.layers[name] for name in block.layers}
        self.branches = nn.ModuleDict(
            {
                name: mixer(layers[name].kind).mixer(layers[name], spec.hidden_size, at)
                for name, at in block.places(place, pair).items()
            }
        )
        if block.norms_behind:
            norms = {name: RMSNorm(spec.hidden_size, spec.norm_epsilon, place) for name in layers}
            self.branch_norms = nn.ModuleDict(norms)

    def mixed(self, x_sBD: Tensor, context: Context, changed: Changed = NOTHING) -> Tensor:
        """x: (s, B, D), what the block reads, twice as wide beside the embeddings. Returns (s, B, D)."""
        readers, again = self.readers(), recomputes(context.recompute, NORM)
        normed_sBD = renormed(self.norm, x_sBD, context)
        read = Gathered(normed_sBD, context, whole=bool(readers), made_from=(x_sBD, self.norm) if again else None)
        with read.remaking():
            complete = self.complete(normed_sBD, context)
            partials = {}
            for name, branch in readers:
                with region(branch_region(name, branch)):
                    at = context.at(branch.place)
                    partials[name] = forward_of(branch, read.whole, at, changed.get(name, {}))
        read.results(partials.values())
        return self.combine(partials, complete, context)

    def initial_state(self, batch: int) -> list[object]:
        """Decoding state of every branch."""
        return [branch.initial_state(batch) for branch in self.mixers()]

    def mixed_further(
        self, x_SBD: Tensor, states: list[object], context: Context, changed: Changed = NOTHING
    ) -> tuple[Tensor, list[object]]:
        """Further tokens: what the block reads, x (S, B, D), and the branches' states to (S, B, D) and the next."""
        x_SBD = self.norm(x_SBD)
        complete, readers = self.complete(x_SBD, context), self.readers()
        after, partials = dict(zip(self.branches, states, strict=True)), {}
        x_SBD = context.gather(x_SBD) if readers else x_SBD
        for name, branch in readers:
            partials[name], after[name] = further_with(changed.get(name, {}), branch, x_SBD, after[name], context)
        return self.combine(partials, complete, context), list(after.values())

    def complete(self, x_sBD: Tensor, context: Context) -> dict[str, Tensor]:
        """What the branches give that work on this rank's own tokens, each (s, B, D), for x, normed: (s, B, D)."""
        outputs = {}
        for name, branch in self.named():
            if branch.config.owns_tokens:
                with region(branch_region(name, branch)):
                    outputs[name] = own_tokens_of(branch, x_sBD, context)
        return outputs

    def readers(self) -> list[tuple[str, Mixer]]:
        """The branches that read the whole sequence."""
        return [(name, branch) for name, branch in self.named() if branch.config.sees_sequence]

    def combine(self, partials: dict[str, Tensor], complete: dict[str, Tensor], context: Context) -> Tensor:
        """The branches' partial sums and complete outputs as one output, with what a branch adds once after the sum
        over the ranks."""
        if self.options.combine == "sum":
            reduced = [context.reduce(total(list(partials.values())))] if partials else []
            output = total([*complete.values(), *reduced])
            for branch in self.mixers():
                output = with_bias(branch, output)
            return output
        outputs, held = [], dict(self.named())
        for name in self.layers:
            partial = partials.get(name) if name in held else nothing_of(partials)
            parts = [] if partial is None else [context.reduce(partial)]
            output = total([*parts, *([complete[name]] if name in complete else [])])
            output = with_bias(held[name], output) if name in held else output
            outputs.append(renormed(self.branch_norms[name], output, context))
        return total(outputs) / len(outputs)

    def mixers(self) -> list[Mixer]:
        """The branches in pattern order."""
        return [branch for _, branch in self.named()]

    def named(self) -> list[tuple[str, Mixer]]:
        """The branches with their layers' names."""
        return list(self.branches.items())  # type: ignore[arg-type]  # torch's container knows modules alone


class Block(Branches):
    """A block that stands in one place: its output is added to what it reads, or goes where its options say."""

    def __init__(self, spec: ModelSpec, block: BlockSpec, place: Placement, pair: int = 0) -> None:
        super().__init__(spec, block, place, pair)
        self.projection = projection(spec, block, place)

    def forward(self, h_sBD: Tensor, context: Context) -> Tensor:
        """h: (s, B, D), the residual stream. Returns the same shape."""
        return h_sBD + self.output(h_sBD, context)

    def further(self, h_SBD: Tensor, states: list[object], context: Context) -> tuple[Tensor, list[object]]:
        """Further tokens: the residual stream (S, B, D) and the branches' states to the new ones."""
        y_SBD, states = self.further_output(h_SBD, states, context)
        return h_SBD + y_SBD, states

    def output(self, x_sBD: Tensor, context: Context) -> Tensor:
        """What the block writes, (s, B, D), for what it reads, x: (s, B, D or twice that)."""
        return block_output(self.computed, context, x_sBD)

    def computed(self, context: Context, x_sBD: Tensor) -> Tensor:
        """`output`, computed once."""
        return behind(self.mixed(x_sBD, context), self.projection, self.options)

    def further_output(self, x_SBD: Tensor, states: list[object], context: Context) -> tuple[Tensor, list[object]]:
        """Further tokens: what the block writes, (S, B, D), and the branches' next states."""
        y_SBD, states = self.mixed_further(x_SBD, states, context)
        return behind(y_SBD, self.projection, self.options), states


def branch_region(name: str, branch: Mixer) -> str:
    """What a trace calls the work of a branch."""
    return f"{name} ({branch.config.kind})"


def forward_of(branch: Mixer, x_SBD: Tensor, context: Context, changed: Mapping[str, Tensor]) -> Tensor:
    """A branch's partial sum, (S, B, D); recomputed where its role is."""
    if not recomputes(context.recompute, branch.config.role):
        return forward_with(changed, branch, x_SBD, context)

    def work(context: Context, x_SBD: Tensor, *weights: Tensor) -> Tensor:
        return forward_with(dict(zip(changed, weights, strict=True)), branch, x_SBD, context)

    return recomputed(work, context, x_SBD, *changed.values())


def own_tokens_of(branch: Mixer, x_sBD: Tensor, context: Context) -> Tensor:
    """The complete output of a branch that works on this rank's own tokens, (s, B, D); recomputed where its role is."""
    if not recomputes(context.recompute, branch.config.role):
        return branch.call_on_own_tokens(x_sBD, context)
    return recomputed(lambda context, x_sBD: branch.call_on_own_tokens(x_sBD, context), context, x_sBD)


def renormed(norm: nn.Module, x: Tensor, context: Context) -> Tensor:
    """norm(x); recomputed where norms are."""
    if not recomputes(context.recompute, NORM):
        normed: Tensor = norm(x)
        return normed
    return recomputed(lambda _, x: norm(x), context, x)


def total(outputs: list[Tensor]) -> Tensor:
    """The sum of at least one tensor."""
    return reduce(add, outputs)


def nothing_of(partials: dict[str, Tensor]) -> Tensor:
    """This rank's part of a branch that lies on others. It asks for a gradient, so that all ranks communicate alike in
    the backward pass."""
    return torch.zeros_like(next(iter(partials.values()))).requires_grad_()


def with_bias(branch: Mixer, output: Tensor) -> Tensor:
    """A branch's output with what it adds once after the sum over the ranks."""
    bias = branch.bias_after_sum()
    return output if bias is None else output + bias


def projection(spec: ModelSpec, block: BlockSpec, place: Placement) -> nn.Parameter | None:
    """A matrix on the residual stream for a place whose block asks for one: its gradient is whole on every rank that
    sees all tokens."""
    if not block.options.projection:
        return None
    return empty_parameter(replicated(spec.hidden_size, spec.hidden_size, partial_gradient=False), place)


def behind(mixed_sBD: Tensor, projection_DD: Tensor | None, options: BlockConfig) -> Tensor:
    """What a place puts behind the branches: its projection and its block's multiplier, where it has them."""
    if projection_DD is not None:
        return linear(mixed_sBD, projection_DD, scale_out=options.output_multiplier)
    return mixed_sBD if options.output_multiplier is None else mixed_sBD * options.output_multiplier
