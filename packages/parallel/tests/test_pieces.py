"""What ranks ask of each other's pieces, against what one process computes that has whole sequences."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from eyas.core.errors import LayoutError
from eyas.parallel import groups
from eyas.parallel.layout import ContextOrder, Layout
from eyas.parallel.own_pieces import OwnPieces
from eyas.parallel.pieces import Pieces
from eyas.parallel.pool import pool
from eyas.parallel.this_rank import own_pieces_here

S, B, H, P = 16, 2, 4, 3
ORDERS: list[ContextOrder] = ["zigzag", "contiguous"]


@given(st.sampled_from(ORDERS), st.integers(2, 5), st.integers(1, 3), st.integers(1, 3))
def test_every_token_is_in_one_piece_of_one_rank(order: ContextOrder, ranks: int, batch: int, length: int) -> None:
    ranks_pieces = [OwnPieces(rank, ranks, order) for rank in range(ranks)]
    whole = torch.arange(batch * length * ranks * ranks_pieces[0].each).view(batch, -1)
    owned = [mine.own(whole) for mine in ranks_pieces]
    assert sorted(torch.cat(owned).flatten().tolist()) == whole.flatten().tolist()
    for piece, (rank, own) in enumerate(ranks_pieces[0].places):
        expected = whole[:, piece * length : (piece + 1) * length]
        assert torch.equal(owned[rank].chunk(ranks_pieces[0].each)[own], expected)


def test_zigzag_gives_every_rank_the_same_causal_work() -> None:
    work = [sum(number + 0.5 for number in OwnPieces(rank, 4, "zigzag").numbers) for rank in range(4)]
    assert work == [8.0] * 4


def test_lengths_that_pieces_do_not_divide_are_refused() -> None:
    with pytest.raises(LayoutError, match="10 tokens cannot be cut into the 4 pieces of layout.context=2"):
        OwnPieces(0, 2, "zigzag").own(torch.zeros(1, 10))


def noise(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def documents(packed: bool) -> Tensor | None:
    """Rows of documents, some of them shorter than a piece, one that ends with a piece."""
    if not packed:
        return None
    starts = torch.zeros(S, B, dtype=torch.long)
    starts[[3, 8, 9, 13], [0, 0, 1, 0]] = 1
    return starts.cumsum(0)


def own(whole_SBC: Tensor, mine: OwnPieces) -> Tensor:
    return mine.own(whole_SBC.transpose(0, 1)).transpose(0, 1)


def compare(pieces: Pieces, here: Callable[[Tensor], Tensor], expected: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """`here` of a rank's pieces of x against its part of `expected` of the whole, and the gradients of a random sum."""
    whole = x.clone().requires_grad_()
    mine = own(x, pieces.mine).clone().requires_grad_()
    wanted, found = expected(whole), here(mine)
    parts = [own(wanted, OwnPieces(rank, pieces.mine.ranks, pieces.mine.order)) for rank in range(pieces.mine.ranks)]
    torch.testing.assert_close(found, parts[pieces.mine.rank])
    factors = [noise(99 + rank, *part.shape) for rank, part in enumerate(parts)]
    total = torch.stack([(part * factor).sum() for part, factor in zip(parts, factors, strict=True)]).sum()
    (gradient,) = torch.autograd.grad((found * factors[pieces.mine.rank]).sum(), mine)
    torch.testing.assert_close(gradient, own(torch.autograd.grad(total, whole)[0], pieces.mine))


def check(layout: Layout, packed: bool) -> None:
    groups.initialise(layout)
    mine, rows = own_pieces_here(layout), documents(packed)
    assert mine is not None
    pieces = Pieces(mine, S, layout.context_exchange, rows)
    x = noise(1, S, B, H, P)
    torch.testing.assert_close(pieces.whole(own(x, mine)), x)
    share = pieces.heads(own(x, mine))
    torch.testing.assert_close(share, x.chunk(layout.context, dim=2)[mine.rank])
    compare(pieces, lambda mine: pieces.tokens(pieces.heads(mine)), lambda whole: whole, x)
    compare(
        pieces,
        lambda mine: torch.cat([pieces.whole(mine)[first : first + pieces.length] for first in pieces.firsts], dim=1),
        lambda whole: whole,
        x,
    )
    for tokens in (0, 1, 3, 9, S):
        check_before(pieces, x, tokens)
    check_carried(pieces, x)


def check_before(pieces: Pieces, x: Tensor, tokens: int) -> None:
    """Each token's mean over itself and the `tokens` before it in its document."""

    def windows(x: Tensor, before: Tensor) -> Tensor:
        return torch.cat([before, x]).unfold(0, tokens + 1, 1).mean(-1)

    def expected(whole: Tensor) -> Tensor:
        zeros = whole.new_zeros(tokens, *whole.shape[1:])
        result = windows(whole, zeros)
        first = pieces.whole_documents_SB
        if first is None:
            return result
        padded = torch.cat([zeros, whole])
        numbers = torch.cat([first.new_full((tokens, B), -1), first])
        alike = torch.stack([numbers[k : k + S] == first for k in range(tokens + 1)])
        shifted = torch.stack([padded[k : k + S] for k in range(tokens + 1)])
        return (shifted * alike[..., None, None]).mean(0)

    if pieces.whole_documents_SB is None:
        compare(pieces, lambda mine: windows(mine, pieces.before(mine, tokens)), expected, x)
        return
    firsts = torch.zeros(S, dtype=torch.bool)
    firsts[:: pieces.length] = True  # tokens further on would need a mask of their own

    def first_alone(result: Tensor) -> Tensor:
        return result * firsts[:, None, None, None]

    def here(mine: Tensor) -> Tensor:
        return windows(mine, pieces.before(mine, tokens)) * firsts[: pieces.length, None, None, None]

    compare(pieces, here, lambda whole: first_alone(expected(whole)), x)


def check_carried(pieces: Pieces, x: Tensor) -> None:
    """h_t = a_t h_(t-1) + x_t with a of a document's first token zero."""
    keep = noise(2, S, B, 1, 1).sigmoid().expand_as(x)

    def scan(x: Tensor, keep: Tensor, numbers: Tensor | None, state: Tensor) -> Tensor:
        found = []
        for t in range(len(x)):
            if t and numbers is not None:
                state = state * (numbers[t] == numbers[t - 1])[:, None, None]
            state = keep[t] * state + x[t]
            found.append(state)
        return torch.stack(found)

    def here(mine: Tensor) -> Tensor:
        numbers = pieces.whole_documents_SB
        numbers = None if numbers is None else own(numbers, pieces.mine)
        kept, zero = own(keep, pieces.mine), torch.zeros_like(mine[0])
        state = pieces.carried(scan(mine, kept, numbers, zero)[-1], kept.prod(0))
        return scan(mine, kept, numbers, state)

    compare(pieces, here, lambda whole: scan(whole, keep, pieces.whole_documents_SB, torch.zeros_like(whole[0])), x)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("ranks", [2, 4])
def test_pieces_are_what_one_process_would_see(ranks: int, order: ContextOrder, packed: bool) -> None:
    pool(ranks).run(check, Layout(context=ranks, context_order=order), packed)
