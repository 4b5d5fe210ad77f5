"""The contenders of a row, each in its process, step by turns."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any, NamedTuple

from train_parts.jobs import Job

SCRIPT = Path(__file__).parents[1] / "train.py"
WARM_UP = 3
"""Steps that are not timed."""
SHORT = 6
"""Steps of a round after the first."""


class Found(NamedTuple):
    """Of one contender."""

    cpu: list[list[float]]
    """Seconds of each step after the warm-up, round by round."""
    wall: list[list[float]]
    losses: list[float]
    """Of every step."""
    peak: float
    """MiB that training holds at most: adapters, optimizer state, and what torch allocates in a step."""
    resident: float
    """MiB of the process's largest resident set in training, above its resident set with the model loaded."""
    loaded: float
    """MiB, the model and the program."""
    saved: float
    """MiB that a forward pass leaves for backward."""
    gflop: float
    """Of a forward and backward pass."""


class _Child:
    def __init__(self, side: str, job: Job, ends: list[int], log: IO[str]) -> None:
        self.side = side
        self._log = log
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        paths = os.pathsep.join([str(SCRIPT.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        offline = {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "PYTHONPATH": paths}
        told = json.dumps({"side": side, "job": job._asdict(), "ends": ends})
        self.process = subprocess.Popen(
            [sys.executable, str(SCRIPT), "--contend", told],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | threads | offline,
        )

    def hear(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            self._log.seek(0)
            raise RuntimeError(f"{self.side} ended early: {self._log.read()[-3000:]}")
        return dict(json.loads(line))

    def go(self) -> None:
        if self.process.stdin:
            self.process.stdin.write("go\n")
            self.process.stdin.flush()


def duels(sides: list[str], job: Job, *, rounds: int) -> dict[str, Found]:
    """Let contenders meet several times, each time as new processes.

    A process is a few per cent faster or slower than another one that does the same, for as long as it lives: by
    where its memory lies. So a ratio of two processes says little about 2 %.

    Args:
        sides: Keys of `SIDES`.
        job: What they do in the first round; later ones are shorter.
        rounds: At least 1.

    Returns:
        Side to what it cost: times of all rounds, the rest of the first.
    """
    again = job._replace(steps=WARM_UP + SHORT)
    found = [duel(sides, again if number else job) for number in range(rounds)]
    return {
        side: found[0][side]._replace(
            cpu=[one[side].cpu[0] for one in found], wall=[one[side].wall[0] for one in found]
        )
        for side in sides
    }


def duel(sides: list[str], job: Job) -> dict[str, Found]:
    """Let contenders train by turns: a warm-up each, then a step each, in the one order and in the other.

    Args:
        sides: Keys of `SIDES`.
        job: What they do.

    Returns:
        Side to what it cost.

    Raises:
        RuntimeError: If a contender fails, or they do not start from the same adapters.
    """
    ends = list(range(WARM_UP, job.steps + 1))
    with tempfile.TemporaryDirectory() as folder:
        children: list[_Child] = []
        try:
            for side in sides:
                log = (Path(folder) / f"{side}.log").open("w+")
                children.append(_Child(side, job, ends, log))
            starts = {child.side: child.hear()["digest"] for child in children}
            if len(set(starts.values())) > 1:
                raise RuntimeError(f"the adapters do not start alike: {starts}")
            turns: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
            ended: dict[str, dict[str, Any]] = {}
            for end in ends:
                for child in children if end % 2 else reversed(children):
                    child.go()
                    turns[child.side].append(child.hear())
                    if end == ends[-1]:
                        ended[child.side] = child.hear()
        finally:
            for child in children:
                if child.process.poll() is None and not _ends(child.process):
                    child.process.kill()
    return {
        side: Found(
            cpu=[[turn["cpu"][0] for turn in turns[side][1:]]],
            wall=[[turn["wall"][0] for turn in turns[side][1:]]],
            **ended[side],
        )
        for side in sides
    }


def _ends(process: "subprocess.Popen[str]") -> bool:
    if process.stdin:
        process.stdin.close()
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        return False
    return True
