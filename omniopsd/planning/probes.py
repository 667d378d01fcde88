"""What runs inside an actor to measure it: rates of its device, seconds of one call, memory of its process."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MATRIX_ROWS, REPEATS = 256, 7
COPY_NUMBERS = 8_000_000
STATUS = Path("/proc/self/status")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """The answer of a call and what it took: wall-clock seconds, and processor seconds of the process."""

    value: Any
    wall: float
    cpu: float

    def seconds(self, clock: str) -> float:
        """By one of the two clocks."""
        return self.cpu if clock == "cpu" else self.wall


def timed(worker: Any, method: Callable[..., Any], args: tuple[Any, ...]) -> Timed:
    """Run a method of the actor's instance and time it."""
    wall, cpu = time.perf_counter(), time.process_time()
    value = method(worker, *args)
    return Timed(value=value, wall=time.perf_counter() - wall, cpu=time.process_time() - cpu)


def used_seconds(worker: Any) -> float:
    """Processor seconds of the actor's process so far."""
    return time.process_time()


def device_rates(worker: Any, dtype: str, width: int, inner: int, gpu: bool) -> dict[str, float]:
    """Operations and bytes per second of this process, and bytes it hashes: the best of a few tries each.

    The product is one of the model's own feed-forward, [256, width] x [width, inner].
    """
    import torch

    device = "cuda" if gpu else "cpu"
    left = torch.randn(MATRIX_ROWS, width, device=device).to(getattr(torch, dtype))
    right = torch.randn(width, inner, device=device).to(getattr(torch, dtype))
    source = torch.zeros(COPY_NUMBERS, device=device)
    target = torch.empty_like(source)
    product = _best(lambda: left @ right, gpu)
    copy = _best(lambda: target.copy_(source), gpu)
    data = np.zeros(4_000_000, np.uint8)
    return {
        "flops": 2.0 * MATRIX_ROWS * width * inner / product,
        "bytes_per_second": 2.0 * COPY_NUMBERS * 4 / copy,
        "hash_bytes_per_second": data.nbytes / _best(lambda: hashlib.blake2b(data.data).digest(), False),
        "threads": float(torch.get_num_threads()),
    }


def device_name(worker: Any) -> str | None:
    """The GPU of the actor as torch calls it."""
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else None


def peak_bytes(worker: Any) -> int:
    """The most memory that the process has had (VmHWM), shared pages included."""
    return _status("VmHWM")


def forget_peak(worker: Any) -> int:
    """Let the peak start again at what is used now; gives that."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _best(work: Callable[[], Any], gpu: bool) -> float:
    import torch

    best = float("inf")
    for _ in range(REPEATS):
        begin = time.perf_counter()
        work()
        if gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begin)
    return best
