"""The files of data that pages speak of, a few hundred thousand bytes of each."""

import json
import sysconfig
from pathlib import Path

import pyarrow
from pyarrow import parquet

from eyas.parallel.indexed import TokenWriter


def write_page_data(folder):
    """Writes the same texts in every form that `data.files` reads."""
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"), key=lambda path: path.stat().st_size)[-12:]
    texts = [path.read_text() for path in sources]
    rows = [{"body": text, "text": text} for text in texts]
    for name in ("texts", "tables", "saved/train", "tokens"):
        (folder / name).mkdir(parents=True)
    for number, text in enumerate(texts):
        (folder / "texts" / f"{number}.txt").write_text(text)
    (folder / "rows.txt").write_text("---".join(texts))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = pyarrow.Table.from_pylist(rows)
    parquet.write_table(table, folder / "tables" / "0.parquet")
    with pyarrow.ipc.new_stream(folder / "saved" / "train" / "data.arrow", table.schema) as stream:
        stream.write_table(table)
    (folder / "saved" / "train" / "state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    (folder / "saved" / "train" / "dataset_info.json").write_text("{}")
    with TokenWriter(folder / "tokens" / "all", 1000) as writer:
        for text in texts:
            writer.add_document(list(text.encode()))
