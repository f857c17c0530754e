"""Folders that `save_to_disk` of Hugging Face's datasets writes: Arrow files, and a list of them in state.json."""

from __future__ import annotations

import json
from pathlib import Path

from eyas.core.errors import DataError

STATE = "state.json"
INFO = "dataset_info.json"
SPLITS = "dataset_dict.json"


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder is one dataset, or several splits of one."""
    return path.is_dir() and ((path / SPLITS).is_file() or all((path / name).is_file() for name in (STATE, INFO)))


def arrow_files(folder: Path) -> list[Path]:
    """The files of a dataset in order. Raises DataError where the folder holds several splits, or is damaged."""
    if (folder / SPLITS).is_file():
        splits = sorted(path.name for path in folder.iterdir() if (path / STATE).is_file())
        raise DataError(
            f"{folder} is a dataset of the splits {', '.join(splits) or '(none)'}; name the one to read, such as "
            f"{folder / (splits[0] if splits else 'train')}"
        )
    try:
        files = [folder / entry["filename"] for entry in json.loads((folder / STATE).read_text())["_data_files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / STATE} is damaged ({error}); save the dataset again") from error
    for path in files:
        if not path.is_file():
            raise DataError(f"{path} is missing, but {STATE} beside it lists it; save the dataset again")
    return files
