"""What the devices of a run could compute at most: what model FLOPs utilisation is measured against.

Peaks by name are those of dense bfloat16 matrices in NVIDIA's data sheets, which for Hopper print the doubled figure of
sparse ones: H100 (SXM 1,979 with sparsity, PCIe 1,513, NVL 1,671), H200 (SXM 1,979, NVL 1,671), A100 (312, all forms).
"""

from __future__ import annotations

import math
import re
import time
from typing import Literal

import torch
import torch.distributed as dist

from eyas.layers.linear import linear
from eyas.parallel.over_ranks import over_ranks

Peak = float | Literal["measured"] | None

DENSE_BFLOAT16 = {
    "H200 NVL": 835.5,
    "H200": 989.5,
    "H100 NVL": 835.5,
    "H100 PCIe": 756.5,
    "H100": 989.5,
    "A100": 312.0,
}
"""TFLOP/s by a part of the name that torch gives a GPU, the more special names first."""
SIZE, SIZE_ON_GPU, SECONDS = 1024, 8192, 0.3
"""Width of what is multiplied to measure: on a GPU 1024 would be over before the next product is asked for."""


def peak_of_all(option: Peak, dtype: torch.dtype, device: torch.device, ranks: int) -> float | None:
    """TFLOP/s that all ranks together could reach; None where that is not known. Every rank calls it alike."""
    if isinstance(option, float):
        return option * ranks
    if option == "measured":
        if ranks > 1:
            dist.barrier()  # ranks that share a machine slow each other down as they do in training
        return float(over_ranks([measured(dtype, device)]).sum())
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    here = known(name) if dtype is torch.bfloat16 else None
    total = float(over_ranks([math.nan if here is None else here]).sum())
    return None if math.isnan(total) else total


def known(name: str) -> float | None:
    """Dense bfloat16 TFLOP/s of a GPU by its name; None for one that is not in the table."""
    return next((peak for part, peak in DENSE_BFLOAT16.items() if re.search(rf"{part}(?!\d)", name)), None)


def measured(dtype: torch.dtype, device: torch.device) -> float:
    """TFLOP/s of the best of some products of square matrices in a third of a second."""
    size = SIZE if device.type == "cpu" else SIZE_ON_GPU
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        product = linear(a, b)
        product[0, 0].item()  # on a GPU the product is done only when somebody reads it
        best = min(best, time.perf_counter() - started)
    if device.type == "cuda":  # what training takes is counted from here on
        del a, b, product
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    return 2 * size**3 / best / 1e12
