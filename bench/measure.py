"""What the benchmarks share: one job in a process of its own, its CPU time, wall time and memory."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits


class Cost(NamedTuple):
    """Of one job."""

    cpu: float
    """Seconds, of all threads and children."""
    wall: float
    """Seconds."""
    peak: float
    """MiB of memory, shared pages counted by halves (PSS), over all its processes."""


def timed(job: Callable[[], Any]) -> dict[str, float]:
    """CPU and wall seconds of a call in this process, printed as JSON for the parent."""
    before = os.times()
    began = time.perf_counter()
    job()
    after = os.times()
    found = {"wall": time.perf_counter() - began, "cpu": sum(after[:4]) - sum(before[:4])}
    print(json.dumps(found))
    return found


def in_process(command: list[str], *, threads: int) -> Cost:
    """Run a command that ends with a line of `timed`, or is timed as a whole where it does not."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    root = Path(__file__).parents[1]
    environment = os.environ | dict.fromkeys(names, str(threads)) | {"PYTHONPATH": str(root)}
    before, began = os.times(), time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True
    )
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, sum(_proportional_set(pid) for pid in _family(process.pid)))
        time.sleep(0.03)
    wall = time.perf_counter() - began
    after = os.times()
    out = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed with {process.returncode}: run it by hand to see why")
    last = out.strip().splitlines()[-1] if out.strip() else ""
    if last.startswith('{"wall"'):
        found = json.loads(last)
        return Cost(found["cpu"], found["wall"], peak)
    return Cost(after[2] + after[3] - before[2] - before[3], wall, peak)


def gemm_rate(size: int = 2000) -> float:
    """Floating-point operations a second of a float64 matrix product on one core: the best of three."""
    matrix = np.random.default_rng(0).standard_normal((size, size))
    best = np.inf
    with threadpool_limits(1):
        for _ in range(3):
            began = time.perf_counter()
            matrix @ matrix
            best = min(best, time.perf_counter() - began)
    return 2 * size**3 / best


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(member for child in children for member in _family(int(child)))]


def _proportional_set(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
