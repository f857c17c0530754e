"""What devices could compute at most."""

import math

import pytest
import torch

from eyas.core.errors import ConfigError
from eyas.experiments import peak
from eyas.experiments.callbacks import describe
from eyas.experiments.peak import known, measured, peak_of_all
from eyas.experiments.run_config import TrainerConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.5), ("NVIDIA H100 PCIe", 756.5), ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.5), ("NVIDIA H200 NVL", 835.5), ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0), ("NVIDIA GeForce RTX 4090", None), ("", None),
        ("NVIDIA RTX A1000", None), ("NVIDIA GH200 480GB", 989.5),
    ],
)  # fmt: skip
def test_gpus_are_known_by_the_names_that_torch_gives_them(name: str, tflops: float | None) -> None:
    assert known(name) == tflops


def test_a_stated_peak_is_one_device_s() -> None:
    assert peak_of_all(100.0, torch.float32, CPU, 4) == 400.0


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank, without process groups."""
    monkeypatch.setattr(peak, "over_ranks", lambda numbers: torch.tensor([numbers], dtype=torch.float64))


@pytest.mark.usefixtures("alone")
def test_the_peak_of_a_cpu_is_not_known() -> None:
    assert peak_of_all(None, torch.bfloat16, CPU, 1) is None


@pytest.mark.usefixtures("alone")
def test_a_gpu_is_known_by_its_bfloat16_matrices_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    gpu = torch.device("cuda")
    assert peak_of_all(None, torch.bfloat16, gpu, 1) == 989.5
    assert peak_of_all(None, torch.float32, gpu, 1) is None


def test_a_measured_peak_is_that_of_a_product_of_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peak, "SIZE", 64)
    monkeypatch.setattr(peak, "SECONDS", 0.01)
    assert 0 < measured(torch.float32, CPU) < math.inf


@pytest.mark.parametrize("tflops", [0.0, -1.0, math.inf, math.nan])
def test_a_peak_that_is_none_is_refused(tflops: float) -> None:
    with pytest.raises(ConfigError, match="peak_tflops"):
        TrainerConfig(peak_tflops=tflops)


def test_the_progress_line_shows_utilisation_where_it_is_known() -> None:
    metrics = {"train/loss": 2.0, "tokens": 512.0, "tokens_per_second": 1234.0, "memory_gib": 1.0}
    assert describe(metrics) == "loss 2.000  512 tokens  1,234 tokens/s  1.0 GiB"
    assert describe({**metrics, "mfu": 0.431}) == "loss 2.000  512 tokens  1,234 tokens/s  MFU 43.1%  1.0 GiB"
