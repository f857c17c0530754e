"""Where a step's time goes: shares of CPU time by group of operations, of several variants side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from torch import nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

OF_WEIGHTS = "aten::mm", "aten::addmm", "mkldnn::_linear_pointwise"
PRODUCTS, RECURRENCE, OTHER = "matrix products", "recurrence", "views and bookkeeping"
WHOLE = {
    "attention": ("aten::_scaled_dot_product", "aten::scaled_dot_product"),
    "cross-entropy": ("_CrossEntropy", "aten::cross_entropy", "aten::_log_softmax", "aten::nll_loss"),
    "optimizer and clipping": ("Optimizer.", "aten::_fused_adam", "aten::_foreach", "aten::linalg_vector_norm"),
}
"""Groups of functions, by the beginnings of their names; all that happens inside belongs to them."""
SINGLE = {
    PRODUCTS: ("aten::bmm", "aten::baddbmm", *OF_WEIGHTS),
    "norms": ("aten::rms_norm", "aten::_fused_rms_norm", "aten::rsqrt", "aten::mean", "aten::pow"),
    "permutation and lookup": (
        "aten::index", "aten::gather", "aten::scatter", "aten::sort", "aten::topk", "aten::masked_select",
        "aten::embedding", "aten::nonzero", "aten::where", "aten::cumsum", "aten::one_hot", "aten::argsort",
    ),
    "activations": (
        "aten::silu", "aten::gelu", "aten::relu", "aten::threshold", "aten::softmax", "aten::_softmax", "aten::sigmoid",
        "aten::softplus",
    ),
    "copies": ("aten::copy_", "aten::cat", "aten::zero_", "aten::fill_", "aten::constant_pad"),
    "sums and products": (
        "aten::mul", "aten::add", "aten::sub", "aten::rsub", "aten::div", "aten::neg", "aten::sum", "aten::exp",
        "aten::square", "aten::masked_fill", "aten::amax", "aten::log",
    ),
}  # fmt: skip
"""Groups of single operations, in the order in which they are tried."""


def shares(model: nn.Module, step: Callable[[], object], repetitions: int) -> dict[str, float]:
    """Milliseconds of one step by group of operations, each group's least of all repetitions: the profiler's clock runs
    on while others have the processor. "recurrence" is all that modules with an `A_log` do beside the products with
    their weights: convolution, scan, gated norm."""
    for module in model.modules():
        if "A_log" in dict(module.named_parameters(recurse=False)):
            mark(module)
    step()
    steps = [profiled(step) for _ in range(repetitions)]
    return {name: min(found[name] for found in steps) for name in steps[0]}


def profiled(step: Callable[[], object]) -> Counter[str]:
    """Milliseconds of one step by group of operations."""
    with profile(activities=[ProfilerActivity.CPU]) as record:
        step()
    events = list(record.events() or [])
    recurrent = inside_recurrences(events)
    found: Counter[str] = Counter()
    for event in events:
        found[group(event, recurrent)] += event.self_cpu_time_total / 1e3
    return found


def mark(module: nn.Module) -> None:
    """Lets the profiler see when the module runs."""
    forward = module.forward

    def marked(*arguments: object, **named: object) -> object:
        with record_function(RECURRENCE):
            return forward(*arguments, **named)

    module.forward = marked


def inside_recurrences(events: Iterable[FunctionEvent]) -> set[int]:
    """Numbers that autograd gave to the operations of marked modules, and gives to their backward passes again. An
    operation without gradient shows the number of the next one that has one, so the last to show a number has it."""
    forward = [event for event in events if event.sequence_nr >= 0 and not in_backward(event)]
    last = {event.sequence_nr: event for event in sorted(forward, key=lambda event: event.time_range.start)}
    return {number for number, event in last.items() if any(one.name == RECURRENCE for one in lineage(event))}


def in_backward(event: FunctionEvent) -> bool:
    return any(one.name.startswith("autograd::engine") for one in lineage(event))


def group(event: FunctionEvent, recurrent: set[int]) -> str:
    """The group that an operation belongs to."""
    above = lineage(event)
    for name, beginnings in WHOLE.items():
        if any(one.name.startswith(beginnings) for one in above):
            return name
    single = next((name for name, beginnings in SINGLE.items() if event.name.startswith(beginnings)), OTHER)
    marked = any(one.name == RECURRENCE or (in_backward(one) and one.sequence_nr in recurrent) for one in above)
    return RECURRENCE if marked and not weights_product(event, single) else single


def weights_product(event: FunctionEvent, single: str) -> bool:
    """Whether the operation multiplies by a weight: scans multiply batches of matrices."""
    return single == PRODUCTS and event.name in OF_WEIGHTS


def lineage(event: FunctionEvent) -> list[FunctionEvent]:
    """The event and what encloses it, inside out."""
    found = [event]
    while (above := found[-1].cpu_parent) is not None:
        found.append(above)
    return found


def table(measured: Mapping[str, Mapping[str, float]]) -> str:
    """A row for each group: milliseconds and share in every variant."""
    totals = {variant: sum(groups.values()) for variant, groups in measured.items()}
    names = Counter[str]()
    for groups in measured.values():
        names.update(groups)
    lines = [f"  {'ms of a step, by operation':34}" + "".join(f"{variant:>22}" for variant in measured)]
    for name, _ in names.most_common():
        found = {variant: groups.get(name, 0.0) for variant, groups in measured.items()}
        cells = (f"{value:13.1f}{value / totals[variant]:9.1%}" for variant, value in found.items())
        lines.append(f"    {name:32}" + "".join(cells))
    lines.append(f"    {'all':32}" + "".join(f"{total:13.1f}{'':9}" for total in totals.values()))
    return "\n".join(lines)
