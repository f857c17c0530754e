"""Mends for Megatron-Core 0.16.1 on any device: checkpoints without helper processes, and an
optimizer's state saved whole with torch's own Adam, with weights kept in float32 and with gradients reduced in parts.

With transformer-engine's or Apex's fused Adam the count of steps belongs to a group of weights. Torch's Adam counts for
each weight, and the distributed optimizer (optimizer/distrib_optimizer.py) trips over that in three places: saving
before the first step fails an assertion (line 642), loading looks for a `step` in every weight's tensors and copies
into leaves that require gradients (line 946), and every weight is handed the same count tensor, which then counts once
per weight (line 825).

The optimizer of bfloat16 weights saves the state of those alone (optimizer/optimizer.py): it looks its weights up among
`float16_groups`, numbered from 0 (line 813), where the state counts all weights, and pairs the numbers of all weights
of a group with the bfloat16 ones (line 827). With a float32 weight among them the state has no place, or another's. The
distributed optimizer notes the place of each weight in its group, and then puts the float32 ones first
(optimizer/distrib_optimizer.py, line 442), so that it saves one weight's state as another's.

Gradients that are reduced in several buckets (overlapped ones, and that of an embedding that two stages share) are
padded at the end of each. What the distributed optimizer collects to save has that padding taken out (line 1118) and is
then read at the padded places (line 1501), so that weights in all buckets but the first get a neighbour's state.
"""

from __future__ import annotations

import functools
import itertools
import queue
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from eyas.parallel import adam_state


@functools.cache
def install() -> None:
    """Applies the mends that this installation needs, once per process."""
    from megatron.core.dist_checkpointing.strategies import filesystem_async
    from megatron.core.distributed import param_and_grad_buffer
    from megatron.core.optimizer import distrib_optimizer, optimizer

    filesystem_async._results_queue = results_of_synchronous_saves()
    _mend_float32_weights(optimizer.Float16OptimizerWithFloat16Params)
    _mend_order(distrib_optimizer.DistributedOptimizer)
    _mend_padding(param_and_grad_buffer._ParamAndGradBuffer)
    if not distrib_optimizer.HAVE_APEX_OR_TE:
        _mend_saving(distrib_optimizer.DistributedOptimizer)
        _mend_loading(distrib_optimizer.DistributedOptimizer)


def results_of_synchronous_saves() -> queue.Queue[Any]:
    """A queue within this process, for what Megatron-Core keeps in a process of its own (filesystem_async.py, line 54):
    that one takes two seconds to start, imports the main module again, and outlives a rank that is killed."""
    return queue.Queue()


def _mend_saving(optimizer: Any) -> None:
    state_dict = optimizer.state_dict

    @functools.wraps(state_dict)
    def mended(self: Any) -> Any:
        """The state; before the first step, the state that Adam starts from."""
        adam_state.allocate(self.optimizer)
        return state_dict(self)

    optimizer.state_dict = mended


def _mend_loading(optimizer: Any) -> None:
    load_state_dict = optimizer.load_state_dict
    set_states = optimizer._set_main_param_and_optimizer_states

    @functools.wraps(load_state_dict)
    def load(self: Any, state: Any) -> None:
        """Loads the state, with a count of steps for each weight."""
        load_state_dict(self, state)
        for tensors in self.optimizer.state.values():
            tensors["step"] = tensors["step"].clone()

    @functools.wraps(set_states)
    @torch.no_grad()
    def set_without_step(self: Any, model_param: Tensor, tensors: Mapping[str, Tensor]) -> None:
        """Sets a weight and its moments; the count of steps is loaded with the groups."""
        group, order = self.model_param_group_index_map[model_param]
        state = self.optimizer.state[self.optimizer.param_groups[group]["params"][order]]
        set_states(self, model_param, {**tensors, "step": state["step"]})

    optimizer.load_state_dict = load
    optimizer._set_main_param_and_optimizer_states = set_without_step


def _mend_float32_weights(optimizer: Any) -> None:
    for name in ("sharded_state_dict", "load_state_dict"):
        setattr(optimizer, name, _with_a_master_each(getattr(optimizer, name)))


def _with_a_master_each(method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def mended(self: Any, *args: Any, **options: Any) -> Any:
        """The method, called while a weight kept in float32 counts as its own master weight."""
        with every_weight_has_a_master(self):
            return method(self, *args, **options)

    return mended


@contextmanager
def every_weight_has_a_master(optimizer: Any) -> Iterator[None]:
    """Inside, the groups of 16-bit weights and of their masters hold all weights, in the order of the state."""
    weights, masters = optimizer.float16_groups, optimizer.fp32_from_float16_groups
    pairs = zip(itertools.chain(*masters), itertools.chain(*weights), strict=True)
    weight_of = {id(master): weight for master, weight in pairs}
    optimizer.fp32_from_float16_groups = [list(group["params"]) for group in optimizer.param_groups]
    optimizer.float16_groups = [
        [weight_of.get(id(master), master) for master in group] for group in optimizer.fp32_from_float16_groups
    ]
    try:
        yield
    finally:
        optimizer.float16_groups, optimizer.fp32_from_float16_groups = weights, masters


def _mend_order(optimizer: Any) -> None:
    build = optimizer._build_model_and_main_param_groups.__func__

    @functools.wraps(build)
    def mended(cls: Any, buffers: Any, places: Any, group_ranges: Any, config: Any) -> Any:
        """Upstream's groups, with the weights that are updated in the order of those that they are parts of."""
        groups = build(cls, buffers, places, group_ranges, config)
        narrow, wide, _, wide_parts, masters = groups
        for index, ranges in enumerate(group_ranges):
            weights, parts = narrow[index] + wide[index], masters[index] + wide_parts[index]
            part_of = {id(weight): part for weight, part in zip(weights, parts, strict=True)}
            ranges["orig_group"]["params"] = [part_of[id(weight)] for weight in ranges["params"]]
        return groups

    optimizer._build_model_and_main_param_groups = classmethod(mended)


def _mend_padding(buffer: Any) -> None:
    init = buffer.__init__

    @functools.wraps(init)
    def mended(self: Any, *args: Any, **options: Any) -> None:
        """A buffer whose padding counts as part of it."""
        init(self, *args, **options)
        self.numel_unpadded = self.numel
        for bucket in self.buckets:
            bucket.numel_unpadded = bucket.grad_data.numel()

    buffer.__init__ = mended
