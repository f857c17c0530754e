"""Output that nobody reads to its end, as with `| head`."""

import os
import signal
import subprocess
import sys

import pytest
from command import TINY, write_corpus


def into_a_closed_pipe(*arguments, folder):
    """Runs the command with an output that nobody reads; returns its exit code and what it says elsewhere."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "eyas.experiments.cli", *arguments]
    run = subprocess.run(command, cwd=folder, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writer)
    return run.returncode, run.stderr


CLOSED = 128 + signal.SIGPIPE
PRINTS = {"layers": [1], "train --help": [0, CLOSED], "train --cfg job": [CLOSED]}
"""Exit codes: a table's is rich's, and argparse does not mind but in early releases of Python 3.11."""


@pytest.mark.parametrize("line", PRINTS)
def test_a_command_ends_without_a_word(line, tmp_path):
    code, said = into_a_closed_pipe(*line.split(), folder=tmp_path)
    assert code in PRINTS[line]
    assert said == ""


@pytest.mark.slow
def test_a_run_says_that_it_ended_and_where(tmp_path):
    write_corpus(tmp_path)
    code, said = into_a_closed_pipe("train", *TINY, folder=tmp_path)
    assert code == 1
    (line,) = said.splitlines()
    assert "nobody reads the output any longer (run folder: runs/run/" in line
    (status,) = tmp_path.glob("runs/run/*/status.json")
    assert '"failed"' in status.read_text()
