"""Runs that are killed at any moment and called again; oracle: the same run, never cut, bit for bit.

A moment is drawn from the time that the whole run took, and is kept as an amount of progress and a while after it:
another process on the machine cannot let the run end first. A try that was not killed is drawn again.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from bisect import bisect_right
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

METHODS = {
    "lora": ("method=lora", "rank_policy=snr_top", "method.dropout=0.1"),
    "adalora": ("method=adalora", "method.initial_factor=2.0", "method.interval=2"),
    "alors": ("method=alors", "method.rounds=2"),
    "eva": ("method=eva",),
    "sgm": (
        "method=sgm",
        "grouping.similarity=gram",
        "grouping.threshold=0.05",
        "grouping.snr_threshold=1.0",
        "rank_policy=uniform",
    ),
}
"""Methods to the options that let them do what they do."""
QUICK = (
    "training.max_steps=8",
    "training.save_steps=2",
    "training.logging_steps=1",
    "training.validation_steps=4",
    "training.keep_best=true",
    "dataset.limit=64",
    "dataset.validation=16",
    "benchmark.limit=8",
    "spectrum.null_draws=0",
    "probe.batches=2",
    "general_text.max_tokens=512",
    "figures=false",
    "tracking.mode=disabled",
)
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
KEPT = ("spectrum.parquet", "probe.safetensors", "overlap.json", "losses.json", "train.json")
"""What a finished stage leaves; it is not written again. `scores.json` grows: the base's scores, then the others."""
MOMENTS = [(method, moment) for method in METHODS for moment in range(5)]
TRIES = 5
STAMP = re.compile(rb"\[\d\d:\d\d:\d\d\]")
"""What a line of the log begins with."""
SERVER = """
import json, os, signal, sys
import lm_eval.evaluator, peft, transformers.models.llama.modeling_llama
import spectral_ft.pipeline, spectral_ft.evaluation.prepare
from spectral_ft.run import main
for line in sys.stdin:
    given = json.loads(line)
    if "pid" in given:
        pid, status = os.waitpid(given["pid"], os.WNOHANG)
        print(json.dumps(os.waitstatus_to_exitcode(status) if pid else None), flush=True)
        continue
    pid = os.fork()
    if pid:
        print(pid, flush=True)
        continue
    os.setsid()
    for number, flags in ((0, os.O_RDONLY), (1, os.O_WRONLY)):
        os.dup2(os.open(os.devnull, flags), number)
    os.dup2(os.open(given["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 2)
    os.environ["SPECTRAL_FT_CACHE"] = given["cache"]
    sys.argv = ["run", *given["options"]]
    main()
    break
"""
"""Has everything imported and forks a process for each command, which then lasts seconds instead of half a minute."""


class Called:
    """A command that runs in a process of its own."""

    def __init__(self, server: "Server", pid: int, folder: Path) -> None:
        self.pid, self.folder = pid, folder
        self._server = server
        self._code: int | None = None

    def code(self) -> int | None:
        """Its exit code, less than 0 for a signal that killed it; None while it runs."""
        if self._code is None:
            self._code = self._server.ask(pid=self.pid)
        return self._code

    def wait(self, seconds: float) -> int:
        """Until it ended."""
        limit = time.monotonic() + seconds
        while (code := self.code()) is None:
            assert time.monotonic() < limit, f"still running: {self.told()[-2000:]}"
            time.sleep(0.02)
        return code

    def told(self) -> str:
        """What it wrote to stderr."""
        return log_of(self.folder).read_text(errors="replace")


class Server:
    """The process that forks."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", SERVER]
        self._process = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)
        self._running: set[int] = set()

    def ask(self, **given: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(given) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def call(self, method: str, folder: Path) -> Called:
        """Start a run in a folder, with a cache and a log next to it."""
        log = log_of(folder)
        log.write_text("")
        given = [f"hydra.run.dir={folder / 'run'}", *options(method)]
        called = Called(self, self.ask(log=str(log), cache=str(folder / "cache"), options=given), folder)
        self._running.add(called.pid)
        return called

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()
        for pid in self._running:
            if Path(f"/proc/{pid}/cmdline").exists() and SERVER in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)


class Whole(NamedTuple):
    """A run that was never cut."""

    folder: Path
    times: list[float]
    """When it had come how far, in seconds; the last one is that of its record."""

    def moment(self, chance: random.Random) -> tuple[int, float]:
        """A random time, as an amount of progress and the seconds after it."""
        at = chance.uniform(self.times[0], self.times[-1])
        progress = bisect_right(self.times, at)
        return progress, at - self.times[progress - 1]


def log_of(folder: Path) -> Path:
    return folder / "log"


def progress(folder: Path) -> int:
    """Lines of the log and rows of the training so far."""
    rows = folder / "run" / "train.jsonl"
    count = rows.read_bytes().count(b"\n") if rows.exists() else 0
    return count + len(STAMP.findall(log_of(folder).read_bytes()))


def options(method: str) -> tuple[str, ...]:
    """Rounds do not go with the best weights."""
    kept = [each for each in QUICK if method != "alors" or "keep_best" not in each]
    return (*METHODS[method], *kept)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def whole_run(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Any:
    @cache
    def run(method: str) -> Whole:
        folder = tmp_path_factory.mktemp(method)
        start = time.monotonic()
        called = server.call(method, folder)
        times: list[float] = []
        while called.code() is None and not (folder / "run" / "result.json").exists():
            times += [time.monotonic() - start] * (progress(folder) - len(times))
            time.sleep(0.01)
        times.append(time.monotonic() - start)
        assert called.wait(120) == 0, called.told()[-2000:]
        return Whole(folder / "run", times)

    return run


def killed(server: Server, method: str, folder: Path, moment: tuple[int, float], number: int) -> str | None:
    """Start a run and kill it at a moment; returns what it wrote, or None if it was not killed before it was done."""
    called = server.call(method, folder)
    amount, after = moment
    reached = None
    # When the next line comes first, this run is faster than the whole one was.
    while reached is None or (time.monotonic() < reached + after and progress(folder) <= amount):
        if called.code() is not None or (folder / "run" / "result.json").exists():
            break
        if reached is None and progress(folder) >= amount:
            reached = time.monotonic()
        time.sleep(0.005)
    else:
        os.kill(called.pid, number)
    code = called.wait(300)
    if code == 0:
        return None
    assert code == (-number if number == signal.SIGKILL else 128 + number), called.told()[-2000:]
    return None if (folder / "run" / "result.json").exists() else called.told()


@pytest.mark.parametrize(("method", "moment"), MOMENTS)
def test_a_killed_run_ends_like_one_that_was_not(
    method: str, moment: int, server: Server, whole_run: Any, tmp_path: Path
) -> None:
    whole: Whole = whole_run(method)
    chance = random.Random(f"{method} {moment}")
    number = SIGNALS[MOMENTS.index((method, moment)) % len(SIGNALS)]
    for attempt in range(TRIES):
        folder = tmp_path / str(attempt)
        folder.mkdir()
        at = whole.moment(chance)
        told = killed(server, method, folder, at, number)
        if told is not None:
            break
    else:
        pytest.fail(f"none of {TRIES} tries was killed before its run ended")
    assert number == signal.SIGKILL or "the same command goes on" in told
    run = folder / "run"
    kept = (*KEPT, "adapter/*") if (run / "train.json").exists() else KEPT
    scored = scores(run)
    if {score["stage"] for score in scored} == {"base", "tuned"}:
        kept = (*kept, "scores.json")
    finished = {path: path.stat().st_mtime_ns for pattern in kept for path in run.glob(pattern)}
    steps = max((int(path.parent.name.split("-")[1]) for path in run.glob("checkpoints/*/complete.json")), default=0)
    print(f"{method} {signal.Signals(number).name} {at[1]:.2f} s after event {at[0]} of {len(whole.times)}, ", end="")
    print(f"try {attempt + 1}, checkpoint {steps}, last line: {STAMP.split(told.encode())[-1].decode()[:90].strip()!r}")
    again = server.call(method, folder)
    code, log = again.wait(300), again.told()
    assert code == 0, log[-2000:]
    if steps and (run / "train.json") not in finished:
        assert f"resuming the training at checkpoint-{steps}" in log
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert scores(run)[: len(scored)] == scored
    assert list(records(run)) == list(records(whole.folder))
    mine, others = (load_file(each / "adapter" / "adapter_model.safetensors") for each in (run, whole.folder))
    assert mine.keys() == others.keys()
    assert all(torch.equal(mine[key], tensor) for key, tensor in others.items())


def scores(run: Path) -> list[dict[str, Any]]:
    """Those that are finished."""
    file = run / "scores.json"
    return json.loads(file.read_text()) if file.exists() else []


def records(run: Path) -> Iterator[Any]:
    """What a run says, without what depends on the clock and on memory."""
    clock = ("seconds", "tokens_per_second", "samples_per_second", "peak_memory_bytes")
    record = json.loads((run / "result.json").read_text())
    yield {key: value for key, value in record["train"].items() if key not in clock}
    yield record["scores"]
    yield record["plan"]
    yield json.loads((run / "plan.json").read_text())
    for line in (run / "train.jsonl").read_text().splitlines():
        yield {key: value for key, value in json.loads(line).items() if key not in clock}
