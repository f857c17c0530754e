"""What a rank keeps for the backward pass is what the closed forms say."""
# S sequence, s this rank's part of it, B batch

import pytest
from models import BALANCED, MIXERS, PENALISED, falcon_h1, holding, hymba, mixture, zamba2

from eyas.core.ledger import transformer_bytes
from eyas.parallel.layout import Layout
from eyas.parallel.pool import pool

S, B = 24, 2
MODELS = {"falcon_h1": falcon_h1(depths=2), "hymba": hymba(), "zamba2": zamba2(repeat=1)} | {
    name: holding(mixer) for name, mixer in MIXERS.items()
}


def kept_and_stated(model, layout, dtype):
    """Bytes that this rank keeps of a microbatch, and what the closed forms state."""
    import mixers
    import torch

    from eyas.core.model import load_model
    from eyas.core.rank_costs import RankShare, block_costs, loss_bytes, tail_bytes
    from eyas.layers.rank_model import stages_here
    from eyas.parallel import groups

    groups.initialise(layout)
    spec = load_model(model)
    (lm,) = stages_here(spec, layout, dtype, 0, S)
    generator = torch.Generator().manual_seed(0)
    tokens, labels = (torch.randint(0, spec.vocab_size, (B, S), generator=generator) for _ in range(2))
    known = [*lm.parameters(), tokens, *mixers.rotary_tables(spec, S + spec.meta_tokens, dtype)]

    def minimised():
        losses = lm(tokens, labels)
        return losses.minimised_SB if spec.depths else losses

    kept = mixers.bytes_kept(minimised, known)
    share = RankShare(
        sequence_length=S,
        microbatch=B,
        at=layout.coordinates,
        sequence=layout.sequence,
        element=dtype.itemsize,
        recompute=layout.recompute,
        loss_chunk=layout.loss_chunk,
    )
    stated = sum(cost.activation_bytes for cost in block_costs(spec, share))
    return kept, stated + loss_bytes(spec, share) + tail_bytes(spec, share)


def embedding_bytes(layout, model):
    """What an embedding keeps besides tokens where it is split over ranks: which of them are another rank's, for every
    use, and the rows of the first, which for the others take the place of their tokens."""
    uses = 1 + sum(part == "/" for part in model["pattern"])
    return S * B * (8 + uses) if layout.tensor > 1 else 0


@pytest.mark.parametrize("layout", [Layout(tensor=2), Layout(tensor=2, sequence=True)], ids=["whole", "split"])
@pytest.mark.parametrize("name", MODELS)
def test_a_rank_keeps_what_is_stated(name, layout):
    import torch

    model = MODELS[name]
    for dtype in (torch.float32, torch.bfloat16):
        kept, stated = pool(2).run(kept_and_stated, model, layout, dtype)[0]
        assert kept == stated + embedding_bytes(layout, model)


SPARE = {
    "norms": {"recompute": ("norm",)},
    "branches": {"recompute": ("ssm", "mlp")},
    "blocks": {"recompute": "full"},
    "logits": {"loss_chunk": 16},
    "both": {"recompute": "full", "loss_chunk": 16},
}


@pytest.mark.parametrize("sequence", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("options", SPARE.values(), ids=SPARE.keys())
def test_a_rank_keeps_what_is_stated_where_it_computes_again(options, sequence):
    import torch

    model, layout = falcon_h1(depths=2), Layout(tensor=2, sequence=sequence, **options)
    kept, stated = pool(2).run(kept_and_stated, model, layout, torch.float32)[0]
    assert kept == stated + embedding_bytes(layout, model)


@pytest.mark.parametrize(
    "layout",
    [Layout(tensor=2, sequence=True), Layout(tensor=2, sequence=True, expert=2, expert_tensor=1)],
    ids=["split", "shared out"],
)
@pytest.mark.parametrize("balancing", [BALANCED, PENALISED], ids=["bias", "losses"])
def test_ranks_together_keep_what_is_stated_of_experts(balancing, layout):
    """One rank's share depends on where the tokens go."""
    import torch

    model = mixture(**balancing)
    ranks = pool(2).run(kept_and_stated, model, layout, torch.float32)
    kept, stated = (sum(bytes) for bytes in zip(*ranks, strict=True))
    assert kept == stated + 2 * embedding_bytes(layout, model)


def transformer_block(x_SBD, weights, heads, core):
    """The block whose bytes `eyas.core.ledger` counts, of plain operations. `core` runs the core of attention."""
    import torch
    from torch.nn.functional import gelu, layer_norm, linear

    (s, b, h), (qkv, projection, up, down) = x_SBD.shape, weights

    def dropped(x):
        return torch.native_dropout(x, 0.1, True)[0]

    def attend(q, k, v):
        return dropped((q @ k.mT * (h // heads) ** -0.5).softmax(-1)) @ v

    parts = linear(layer_norm(x_SBD, [h]), qkv).chunk(3, -1)
    by_head = (part.reshape(s, b * heads, h // heads).transpose(0, 1) for part in parts)
    attended_SBD = core(attend, *by_head).transpose(0, 1).reshape(s, b, h)
    x_SBD = x_SBD + dropped(linear(attended_SBD, projection))
    return x_SBD + dropped(linear(gelu(linear(layer_norm(x_SBD, [h]), up)), down))


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_a_plain_transformer_block_keeps_what_the_published_ledger_says(recompute):
    """But for means and deviations of the norms, a half percent."""
    import mixers
    import torch
    from torch.utils.checkpoint import checkpoint

    s, b, h, heads = 64, 2, 128, 4

    def noise(*shape):
        return torch.randn(*shape, dtype=torch.bfloat16).requires_grad_()

    def plain(run, *inputs):
        return run(*inputs)

    def again(run, *inputs):
        return checkpoint(run, *inputs, use_reentrant=True)

    x_SBD, weights = noise(s, b, h), [noise(3 * h, h), noise(h, h), noise(4 * h, h), noise(h, 4 * h)]
    core, whole = again if recompute == "selective" else plain, again if recompute == "full" else plain
    kept = mixers.bytes_kept(lambda: whole(lambda x: transformer_block(x, weights, heads, core), x_SBD), weights)
    assert kept == pytest.approx(transformer_bytes(s, b, h, heads, recompute=recompute), rel=0.01)


def kept_undropped(model, layout, dtype):
    """What is kept where readers keep what they read, gathered."""
    from contextlib import nullcontext
    from unittest.mock import patch

    with patch("eyas.layers.gathered.remaking", lambda remade: nullcontext()):
        return kept_and_stated(model, layout, dtype)[0]


def test_gathering_again_saves_all_but_a_ranks_part_of_what_blocks_and_head_read():
    import torch

    model, layout = falcon_h1(repeat=3), Layout(tensor=4, sequence=True)
    kept, _ = pool(4).run(kept_and_stated, model, layout, torch.float32)[0]
    undropped = pool(4).run(kept_undropped, model, layout, torch.float32)[0]
    readers = len(model["pattern"]) * model["repeat"] + 1
    assert undropped - kept == readers * S * B * model["hidden_size"] * 4 * 3 / 4
