"""Which build of torch the sessions of noxfile.py install."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parent.parent
CUDA = ["sympy>=1.13.3", 'cuda-toolkit[cublas]==13.0.3; platform_system == "Linux"', "nvidia-nccl-cu13==2.29.7"]
CPU = ["sympy>=1.13.3", "networkx>=2.5.1"]


@pytest.fixture(scope="module")
def noxfile():
    spec = importlib.util.spec_from_file_location("noxfile", ROOT / "noxfile.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Session:
    """Keeps the commands that a session would run; pip's report names a torch that needs what is given, or none."""

    def __init__(self, folder, needs):
        self.commands, self.bin, self.virtualenv = [], f"{folder}/bin", SimpleNamespace(location=str(folder))
        self.report = {"install": [{"metadata": {"name": "torch", "requires_dist": needs}}] if needs else []}

    def install(self, *words):
        self.commands.append(("pip", "install", *words))

    def run_install(self, *words, **_):
        self.commands.append(words)
        if self.report is None:
            return None
        if "--report" in words:
            Path(words[words.index("--report") + 1]).write_text(json.dumps(self.report))
        return ""


@pytest.mark.parametrize(
    ("driver", "needs", "for_cpus"),
    [(False, CUDA, True), (True, CUDA, False), (False, CPU, False), (False, None, False)],
    ids=["CUDA without a driver", "CUDA with a driver", "a build for CPUs", "installed already"],
)
def test_build_for_cpus_is_chosen_where_cuda_could_not_run(noxfile, monkeypatch, tmp_path, driver, needs, for_cpus):
    monkeypatch.setattr(noxfile, "has_nvidia_driver", lambda: driver)
    session = Session(tmp_path, needs)
    noxfile.install_torch(session)
    chosen = [words for words in session.commands if words[0] == "uv"]
    assert [words[words.index("--torch-backend") + 1] for words in chosen] == (["cpu"] if for_cpus else [])
    assert session.commands[-1] == ("pip", "install", "-c", "constraints.txt", "torch")


def test_a_session_that_installs_nothing_reads_no_report(noxfile, monkeypatch, tmp_path):
    monkeypatch.setattr(noxfile, "has_nvidia_driver", lambda: False)
    session = Session(tmp_path, CUDA)
    session.report = None
    noxfile.install_torch(session)
    assert not [words for words in session.commands if words[0] == "uv"]
