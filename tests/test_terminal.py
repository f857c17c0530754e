"""What a newcomer sees of a training on a terminal: our lines, the progress bar and nothing else."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading

import pytest
from small_runs import CARD, FIGURES, OUTCOME, SMALL, assert_tells, eyas, write_texts

ROWS, COLUMNS = 40, 160
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What moves the cursor or colours the text."""
BAR = "[━╸╺ ]+"
READING = rf"([⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] )?(Training the tokenizer|Tokenizing) +{BAR} [\d,]+ documents +[\d:]+( [-\d:]+)?\n"
BEGUN = rf"training {BAR} 0/3 +[\d:]+ left -:--:--\n"
STEPS = rf"training {BAR} [123]/3 {FIGURES} +[\d:]+ left [-\d:]+\n"
DONE = rf"training {BAR} 3/3 {FIGURES} +[\d:]+ left 0:00:00\n"


def test_a_training_shows_its_bar_and_no_foreign_line(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("COLUMNS", raising=False)
    write_texts(tmp_path)
    code, shown = on_a_terminal(tmp_path, "train", "data.files=text*.txt", *SMALL, "trainer.max_steps=3")
    assert code == 0, shown
    (folder,) = tmp_path.glob("runs/run/*")
    lines = (line.strip() for line in re.split(r"[\r\n]+", CONTROL.sub("", shown)))
    said = "".join(f"{line}\n" for line in lines if line)
    assert_tells(f"({READING})+{CARD}({BEGUN})+({STEPS})*{DONE}{OUTCOME}", said, folder)


@pytest.mark.slow
def test_a_compiled_kernel_adds_no_line(tmp_path, monkeypatch):
    """With nothing compiled before, since the warnings come of compiling."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    write_texts(tmp_path)
    options = ("data.files=text*.txt", *SMALL, "trainer.max_steps=2", "model.layers.ssm.kernel=compiled")
    process = eyas(tmp_path, "train", *options, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    _, errors = process.communicate(timeout=600)
    assert (process.returncode, errors) == (0, "")


def on_a_terminal(place, *arguments):
    """Runs the command with a terminal of its own; returns its exit code and all that it wrote there."""
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = eyas(place, *arguments, stdin=its, stdout=its, stderr=its)
    os.close(its)
    limit = threading.Timer(240, process.kill)
    limit.start()
    with open(ours, "rb", buffering=0) as terminal:
        shown = b"".join(iter(lambda: read(terminal), b""))
    limit.cancel()
    return process.wait(timeout=60), shown.decode()


def read(terminal):
    """What is there to read; nothing once the last process has left the terminal."""
    try:
        return terminal.read(65536)
    except OSError:
        return b""
