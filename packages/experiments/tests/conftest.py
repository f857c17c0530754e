"""A model of transformers' on disk, for the tests that change a copy of it."""

import pytest


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("hugging_face")


@pytest.fixture(scope="module")
def llama(place):
    """The folder, and the model."""
    from hf_folders import saved_model

    folder = place / "llama"
    folder.mkdir()
    return folder, saved_model(folder)
