"""Every layout grades each token as plain torch does: its loss, and whether the likeliest token is its label."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from models import falcon_h1, hymba

from eyas.core.model import load_model
from eyas.layers.greedy import greedy
from eyas.layers.model import HybridLM
from eyas.layers.testing import Trial
from eyas.layers.testing.layouts import engine_here
from eyas.parallel.context import Context
from eyas.parallel.layout import Layout
from eyas.parallel.pool import pool
from eyas.parallel.this_rank import replica_here

LAYOUTS = {
    "one process": Layout(),
    "tensor": Layout(tensor=2, sequence=True),
    "tensor, in chunks": Layout(tensor=2, loss_chunk=5),
    "pipeline": Layout(pipeline=2),
    "interleaved pipeline": Layout(pipeline=2, virtual_pipeline=2),
    "context": Layout(context=2),
    "data": Layout(data=2),
    "all": Layout(tensor=2, sequence=True, pipeline=2, context=2, data=1),
}


def grade_here(trial, layout, batch):
    """One rank's part."""
    engine, replica = engine_here(trial, layout), replica_here()
    rows = {name: tensor.chunk(layout.data)[replica] for name, tensor in batch.items()}
    parts = zip(*(tensor.split(trial.microbatch) for tensor in rows.values()), strict=True)
    return engine.grade([dict(zip(rows, part, strict=True)) for part in parts])


def by_torch(trial):
    """tokens, labels of which half are the model's first choice, and their losses and hits."""
    model = HybridLM(load_model(trial.model)).double().initialise(trial.seed)
    batch = trial.batch(0)
    with torch.no_grad():
        logits_BSV = model(batch["tokens"]).transpose(0, 1)
    choice, labels = logits_BSV.argmax(-1), batch["labels"]
    draw = torch.Generator().manual_seed(5)
    labels = torch.where((torch.rand(labels.shape, generator=draw) < 0.5) & (labels != -100), choice, labels)
    loss = F.cross_entropy(logits_BSV.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    return {"tokens": batch["tokens"], "labels": labels}, loss, choice == labels


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_rank_has_the_grades_of_every_token(layout):
    assert_graded(falcon_h1(depths=1), layout)


@pytest.mark.parametrize("name", ["pipeline", "context"])
def test_meta_tokens_are_not_graded(name):
    assert_graded(hymba(), LAYOUTS[name], sequence_length=20)


def assert_graded(model, layout, **options):
    trial = Trial(model=model, microbatch=2, **options)
    batch, loss, hit = by_torch(trial)
    for graded in pool(layout.processes).run(grade_here, trial, layout, batch):
        assert torch.equal(graded["hit"].bool(), hit)
        assert (graded["loss"] - loss).abs().max() < 1e-9
    assert 0.2 < hit.double().mean() < 0.8


@given(st.integers(0, 50), st.integers(1, 4), st.integers(2, 6))
def test_the_first_choice_is_the_lowest_of_the_greatest(seed, ranks, rows):
    logits = torch.randint(0, 3, (7, ranks * rows), generator=torch.Generator().manual_seed(seed)).bfloat16()
    tops = [part.amax(-1) for part in logits.split(rows, -1)]
    candidates = [None] * ranks

    class Rank(Context):
        def maximum(self, value):
            return torch.stack(tops).amax(0) if value.is_floating_point() else value

    for rank, part in enumerate(logits.split(rows, -1)):
        candidates[rank] = greedy(part, rank * rows, Rank())
    assert torch.equal(torch.stack(candidates).amin(0), logits.argmax(-1))


def test_a_context_of_one_rank_is_its_own_maximum():
    logits = torch.tensor([[1.0, 3.0, 3.0], [2.0, 1.0, 0.0]])
    assert greedy(logits, 4, Context()).tolist() == [5, 4]
