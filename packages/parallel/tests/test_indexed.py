"""Token files in Megatron's indexed format."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eyas.core.errors import DataError
from eyas.parallel.indexed import TokenWriter, open_tokens


@given(st.sampled_from([300, 65_499, 65_500, 200_000]), st.data())
def test_documents_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, vocab_size: int, data: st.DataObject
) -> None:
    document = st.lists(st.integers(0, vocab_size - 1), min_size=1, max_size=9)
    documents = data.draw(st.lists(document, min_size=1, max_size=9))
    prefix = tmp_path_factory.mktemp("tokens") / "train"
    with TokenWriter(prefix, vocab_size) as writer:
        for tokens in documents:
            writer.add_document(tokens)
    file = open_tokens(prefix)
    assert [part.tolist() for part in np.split(file.tokens, file.document_starts[1:])] == documents
    assert file.document_starts[0] == 0
    assert file.tokens.itemsize == (2 if vocab_size < 65_500 else 4)


def test_tokens_stay_on_disk(tmp_path: Path) -> None:
    with TokenWriter(tmp_path / "train", 300) as writer:
        writer.add_document([1, 2, 3])
    assert isinstance(open_tokens(tmp_path / "train").tokens, np.memmap)


def test_writing_that_fails_leaves_no_index(tmp_path: Path) -> None:
    with pytest.raises(OverflowError), TokenWriter(tmp_path / "train", 300) as writer:
        writer.add_document([70_000])
    with pytest.raises(DataError, match=r"no token file .*train\.idx"):
        open_tokens(tmp_path / "train")


def test_a_last_document_without_sequences_is_empty(tmp_path: Path) -> None:
    """As Megatron's own tool writes a record without text."""
    with TokenWriter(tmp_path / "train", 300) as writer:
        writer.add_document([1, 2])
        writer.builder.end_document()
    assert open_tokens(tmp_path / "train").document_starts.tolist() == [0, 2]


def test_a_file_without_tokens_is_empty(tmp_path: Path) -> None:
    with TokenWriter(tmp_path / "train", 300):
        pass
    file = open_tokens(tmp_path / "train")
    assert (len(file.tokens), file.document_starts.tolist()) == (0, [])
