import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import PatternError
from eyas.core.pattern import Pattern, parse_pattern

LAYERS = {"ssm": "M", "attn": "*", "ffn": "-", "moe": "E", "conv": None}
MAMBA_2_HYBRID_8B = "M-M-M--M-M*-M-M-M-M--M*-M-M-M-M-M*--M-M-M-M-M*-M--M-M-M-"
NEMOTRON_H_56B = "M-M-M-M*-" + 9 * "M-M-M-M-M*-" + "M-M-M-M-M-"


def parsed(text, repeat=1):
    """Parses over as many of LAYERS as the text needs, so that none is left unused."""
    needed = {name: symbol for name, symbol in LAYERS.items() if re.search(rf"\b{name}\b", str(text))}
    return parse_pattern(text, needed, repeat)


def read_letters(text):
    pair = "P" in text
    used = {n: s for n, s in LAYERS.items() if s and (s in text or (pair and s in "M*-"))}
    return parse_pattern(text, used)


def test_plus_puts_layers_side_by_side_and_commas_stack_blocks():
    assert parsed("ssm+attn, ffn") == Pattern((("ssm", "attn"), ("ffn",)))


@pytest.mark.parametrize(
    "items, text",
    [
        (["ssm+attn", "ffn"], "ssm+attn, ffn"),
        (["[ssm, ffn] x2", "attn"], "[ssm, ffn] x2, attn"),
        ([["ssm", "ffn"], "x2", "attn"], "[ssm, ffn] x2, attn"),
        (["ssm", "|", "attn", "/", "ffn"], "ssm | attn / ffn"),
        (["[ssm,ffn]x2,attn"], "[ssm, ffn] x2, attn"),
    ],
)
def test_a_list_means_the_same_as_its_text(items, text):
    assert parsed(items) == parsed(text)


def test_brackets_nest_and_repeat():
    assert parsed("[[ssm, ffn] x2, attn] x2").blocks == (("ssm",), ("ffn",), ("ssm",), ("ffn",), ("attn",)) * 2


def test_line_breaks_are_spaces():
    assert parsed("ssm,\n  ffn\n") == parsed("ssm, ffn")


def test_cuts_are_indices_of_the_blocks_behind_them():
    assert parsed("ssm, ffn | attn | ffn").cuts == (2, 3)


def test_each_slash_begins_a_depth_of_the_tail():
    assert parsed("ssm / attn, ffn / attn").tail == ((("attn",), ("ffn",)), (("attn",),))


def test_repeat_repeats_blocks_and_cuts_but_not_the_tail():
    assert parsed("ssm | ffn / attn", repeat=2) == Pattern((("ssm",), ("ffn",)) * 2, (1, 3), ((("attn",),),))


def test_a_layer_may_be_called_like_a_repetition():
    assert parse_pattern(["[x2]", "x2"], {"x2": None}) == Pattern((("x2",), ("x2",)))


def test_published_letters_become_the_layers_that_have_them():
    pattern = read_letters(MAMBA_2_HYBRID_8B)
    assert len(pattern.blocks) == 56
    assert [pattern.blocks.count((name,)) for name in ("ssm", "attn", "ffn")] == [24, 4, 28]


def test_letters_carry_cuts_and_tail():
    assert read_letters("M-|M*/*E/*E") == parsed("ssm, ffn | ssm, attn / attn, moe / attn, moe")


def test_p_is_the_pair_of_blocks_of_falcon_h1():
    assert read_letters("PP|P") == parsed("[ssm+attn, ffn] x2 | ssm+attn, ffn")


def test_a_text_made_of_layer_names_is_never_letters():
    assert parse_pattern("M|A", {"M": "*", "A": "M"}).blocks == (("M",), ("A",))


def test_printing_folds_repetitions():
    assert str(read_letters("P" * 36)) == "[ssm+attn, ffn] x36"
    assert str(read_letters(NEMOTRON_H_56B)) == "[[ssm, ffn] x3, ssm, attn, ffn, ssm, ffn] x10, [ssm, ffn] x4"


@pytest.mark.parametrize("text", [MAMBA_2_HYBRID_8B, NEMOTRON_H_56B, "PPPP", "M-M-|M*-/*E/*E"])
def test_shorthand_of_what_letters_say_is_the_letters(text):
    assert read_letters(text).shorthand({n: s for n, s in LAYERS.items() if s}) == text


@pytest.mark.parametrize("text", ["attn+ssm, ffn", "ssm+attn | ffn", "conv"])
def test_shorthand_refuses_blocks_without_a_letter(text):
    with pytest.raises(PatternError, match="names"):
        parsed(text).shorthand({name: symbol for name, symbol in LAYERS.items() if symbol or name in text})


blocks = st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=3, unique=True).map(tuple)
stacks = st.lists(st.lists(blocks, min_size=1, max_size=4), min_size=1, max_size=6).flatmap(
    lambda runs: st.lists(st.sampled_from(runs), min_size=1, max_size=8).map(
        lambda picked: tuple(name for run in picked for name in run)
    )
)


@st.composite
def patterns(draw):
    main = draw(stacks)
    cuts = draw(st.sets(st.integers(1, len(main) - 1))) if len(main) > 1 else set()
    return Pattern(main, tuple(sorted(cuts)), tuple(draw(st.lists(stacks, max_size=2))))


@given(patterns())
def test_parsing_the_printed_pattern_gives_it_back(pattern):
    assert parsed(str(pattern)) == pattern


@given(stacks, st.integers(1, 4))
def test_repeat_equals_a_repeated_bracket(main, times):
    text = str(Pattern(main))
    assert parsed(text, repeat=times) == parsed(f"[{text}] x{times}")


@pytest.mark.parametrize(
    "text, fault, message",
    [
        ("ssm, fnn", "fnn", r"unknown layer 'fnn'; did you mean 'ffn'\?"),
        ("ssm, zebra", "zebra", "unknown layer 'zebra'; there are: attn, conv, ffn, moe, ssm"),
        ("ssm+, ffn", "+", "a layer is missing after this"),
        ("+ssm", "+", "a layer is missing before this"),
        ("ssm++ffn", "+", "a layer is missing after this"),
        ("ssm+ffn+ssm", "ssm", "'ssm' stands twice in one block"),
        ("ssm,, ffn", ",", "a block is missing before this comma"),
        (", ssm", ",", "a block is missing before this comma"),
        ("[ssm, ] x2", "]", "a block is missing here"),
        ("[] x2", "]", "a block is missing here"),
        ("ssm,", "", "a block is missing here"),
        ("[ssm, ffn", "[", "this bracket is never closed"),
        ("ssm] x2", "]", "this bracket was never opened"),
        ("[ssm] x0", "x0", "x0 of 1 blocks"),
        ("[ssm] x99999", "x99999", "x99999 of 1 blocks; a model has 1 to 10000"),
        ("ssm x2", "x2", r"repeats the bracket right before it; write \[...\] x2"),
        ("ssm ffn", "ffn", "a comma is missing before 'ffn'"),
        ("ssm, ffn$", "$", "unexpected '\\$'"),
        ("| ssm", "|", "no block stands before this"),
        ("ssm |", "|", "no block stands after this"),
        ("ssm | | ffn", "|", "no block stands before this"),
        ("ssm / | ffn", "|", "no block stands before this"),
        ("ssm /", "/", "no block stands after this"),
        ("ssm | / ffn", "/", "no block stands before this"),
        ("ssm / ffn | ffn", "|", "cannot stand in the tail"),
        ("[ssm / ffn] x2", "/", "cannot begin inside a bracket"),
        ("M-X*", "X", r"unknown symbol 'X'; there are: M \(ssm\), \* \(attn\), .*no symbol \(conv\)"),
        ("|M-", "|", "no block stands before this"),
    ],
)
def test_a_fault_is_shown_under_the_pattern(text, fault, message):
    with pytest.raises(PatternError, match=message) as raised:
        parse_pattern(text, LAYERS)
    _, shown, carets = str(raised.value).split("\n")
    assert shown == "  " + text
    at = carets.index("^")
    assert carets == " " * at + "^" * max(1, len(fault))
    assert shown[at : at + len(fault)] == fault


def test_the_caret_points_at_the_second_of_two_equal_names():
    with pytest.raises(PatternError) as raised:
        parsed("ssm+ssm")
    assert str(raised.value).endswith("\n  ssm+ssm\n      ^^^")


def test_a_pair_needs_its_three_layers():
    with pytest.raises(PatternError, match=r"'P' \(P is M\+\* and then -\) but no layer has symbol '\*'"):
        parse_pattern("PP", {"ssm": "M", "ffn": "-"})


def test_a_letter_that_two_layers_have_is_ambiguous():
    with pytest.raises(PatternError, match="'M' may be 'a' or 'b'"):
        parse_pattern("M*", {"a": "M", "b": "M", "attn": "*"})


def test_a_topology_may_leave_a_declared_layer_out():
    assert parse_pattern("ssm", {"ssm": "M", "attn": "*"}).blocks == (("ssm",),)


@pytest.mark.parametrize("empty", ["", "  ", []])
def test_an_empty_pattern_is_refused(empty):
    with pytest.raises(PatternError, match="the pattern is empty"):
        parse_pattern(empty, {})


@pytest.mark.parametrize("repeat", [0, -1, 100_000])
def test_repeat_is_a_sensible_number(repeat):
    with pytest.raises(PatternError, match=f"repeat={repeat}"):
        parsed("ssm", repeat=repeat)


def test_items_and_names_that_are_not_text_are_refused():
    with pytest.raises(PatternError, match="pattern item 3"):
        parsed(["ssm", 3])
    with pytest.raises(PatternError, match="layer name 'my-ssm' cannot"):
        parse_pattern("my-ssm", {"my-ssm": None})
