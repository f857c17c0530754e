"""A text ends where it should, however its tokens are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders

from eyas.core.errors import ConfigError
from eyas.experiments.stops import Stops
from eyas.experiments.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(iter(["a falcon reads what the eyas writes, ça et là " * 20]), 290)
END = 0
characters = st.text("a falcoeysçà,", min_size=1)
ascii_only = st.text("a falcoeys,", min_size=1)


@given(st.lists(st.integers(1, 289), max_size=40), st.lists(characters, max_size=3))
def test_a_text_stops_at_the_token_that_completes_a_stop_text(tokens, texts):
    stops = Stops(TOKENIZER, {END}, texts)
    new = []
    for token in tokens:
        new.append(token)
        if stops(new):
            break
    whole = TOKENIZER.decode(tokens)
    found = [whole.find(text) for text in texts if text in whole]
    assert stops.cut(new) == (whole[: min(found)] if found else whole)


@given(ascii_only, ascii_only, ascii_only)
def test_a_stop_text_is_found_where_every_character_is_a_token(before, stop, behind):
    of_character = {TOKENIZER.decode([token]): token for token in range(1, 257)}
    stops, new = Stops(TOKENIZER, {END}, [stop]), []
    for character in before + stop + behind:
        new.append(of_character[character])
        if stops(new):
            break
    text = before + stop + behind
    assert stops.cut(new) == text[: text.index(stop)]
    assert TOKENIZER.decode(new).endswith(stop)


def test_the_documents_end_ends_a_text_and_is_not_part_of_it():
    stops = Stops(TOKENIZER, {END}, [])
    tokens = TOKENIZER.encode("a falcon").ids
    assert not stops(tokens)
    assert stops([*tokens, END])
    assert stops.cut([*tokens, END]) == "a falcon"


def test_an_empty_stop_text_is_refused():
    with pytest.raises(ConfigError, match="empty stop text"):
        Stops(TOKENIZER, {END}, ["a", ""])


def test_a_stop_text_that_spells_a_special_token_is_that_token():
    tokenizer = train_tokenizer(iter(["a falcon reads what the eyas writes " * 20]), 280)
    tokenizer.add_special_tokens(["<|im_end|>"])
    stops, tokens = Stops(tokenizer, {END}, ["<|im_end|>"]), [*tokenizer.encode("a falcon").ids, 280]
    assert not stops(tokens[:-1])
    assert stops(tokens)
    assert stops.cut(tokens) == "a falcon"


def test_a_continuation_keeps_the_space_that_a_tokenizer_takes_from_a_text_s_beginning():
    tokenizer = train_tokenizer(iter(["a falcon reads what the eyas writes " * 20]), 280)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    before, new = tokenizer.encode(" the eyas").ids, tokenizer.encode(" writes").ids
    assert tokenizer.decode(new) == "writes"
    assert Stops(tokenizer, {END}, []).cut(new, before) == " writes"
    assert Stops(tokenizer, {END}, ["ri"]).cut(new, before) == " w"
    assert Stops(tokenizer, {END}, [" w"])(new)
    assert Stops(tokenizer, {END}, [" w"])([*tokenizer.encode(" reads").ids, *new])
    assert not Stops(tokenizer, {END}, ["aw"])(new)
    space = Stops(tokenizer, {END}, [" "])
    assert space(new[:1]) and space.cut(new[:1]) == space.cut(new[:1], [END]) == ""
