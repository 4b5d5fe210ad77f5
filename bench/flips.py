"""Bits that flip on a disk: each file of a run and of the caches is damaged many times, and read as the stages read it.

Every damage must be refused with a sentence or made again with a line in the log, or must leave the value as it was.
One that gives another value without a word is counted as silent. A run is made first; then all of it happens in this
process, since a command for each of some thousand flips would take days.

    python bench/flips.py [--flips 300] [--only 'cut in training *' 'cache *'] [--out FILE]
"""

import argparse
import json
import logging
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pandas as pd

from spectral_ft.errors import SpectralFTError
from spectral_ft.types import AllocationPlan, Overlap, Probe, RunResult, SpectralReport

OPTIONS = (
    "method=sgm",
    "training.max_steps=8",
    "training.save_steps=3",
    "training.logging_steps=1",
    "training.validation_steps=4",
    "training.keep_best=true",
    "dataset.limit=200",
    "dataset.validation=20",
    "benchmark.limit=8",
    "spectrum.null_draws=0",
    "tracking.mode=disabled",
    "figures=false",
)
Look = Callable[[], Any]
MADE = "made again"
SILENT = "silent"


class Heard(logging.Handler):
    """Whether anything was said."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Note a line."""
        self.lines.append(record.getMessage())


def made_run(folder: Path) -> None:
    """A finished run that kept its checkpoints, as one has that is cut in its training."""
    from spectral_ft import run

    sys.argv = ["run", f"hydra.run.dir={folder}", *OPTIONS]
    run.main()


def looks(run: Path, cache: Path) -> Iterator[tuple[str, Path, Look]]:
    """Each file with what reads it, once for the finished run and once for one that was cut."""
    from spectral_ft import storage
    from spectral_ft.adapters.origin import check_origin
    from spectral_ft.run_folder import claimed, finished_run
    from spectral_ft.stages.training import train_adapter
    from spectral_ft.training.checkpoints import Origin, last_checkpoint

    result = storage.read_json(run / "result.json", RunResult)
    known = sorted(storage.manifest(run))
    for name in [*known, storage.MANIFEST]:
        yield "finished", run / name, lambda: finished_run(run, result.run_id) or MADE

    def stored(name: str, kind: Any) -> Look:
        return lambda: storage.stored(run / name, kind, lambda: None)

    def held() -> str:
        with claimed(run, result.run_id):
            return result.run_id

    def trained() -> Any:
        nothing: Any = SimpleNamespace(method=None)
        parts: Mapping[str, Any] = dict.fromkeys(("base", "report", "probe", "log_row"))
        outcome = train_adapter(nothing, nothing, nothing, **parts, folder=run)
        origin = json.loads((run / "adapter" / "origin.json").read_text())
        return outcome, check_origin(run / "adapter", model="m", fingerprint=origin["fingerprint"])

    def scored() -> Any:
        from spectral_ft.evaluation.records import ScoreFile

        file, beside = ScoreFile(run), [run / "scores.json", run / storage.MANIFEST]
        before = [path.read_bytes() for path in beside]
        try:
            file.forget_damaged()
            return file.scores(), file.samples("wordmath")
        finally:
            for path, content in zip(beside, before, strict=True):
                path.write_bytes(content)

    cut: dict[str, Look] = {
        "run.json": held,
        "overlap.json": stored("overlap.json", Overlap),
        "spectrum.parquet": stored("spectrum.parquet", SpectralReport),
        "probe.safetensors": stored("probe.safetensors", Probe),
        "plan.json": lambda: storage.read_json(run / "plan.json", AllocationPlan),
        "losses.json": stored("losses.json", dict[str, tuple[float, int]]),
        "train.json": trained,
        "scores.json": scored,
        "drift.parquet": stored("drift.parquet", pd.DataFrame),
        **{name: trained for name in known if name.startswith("adapter/")},
        **{name: scored for name in known if name.startswith("samples/")},
    }
    for name, look in cut.items():
        if (run / name).exists():
            yield "cut", run / name, look
    yield "cut", run / storage.MANIFEST, cut["plan.json"]

    newest = max((run / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    origin = Origin(**json.loads((newest / "complete.json").read_text())["origin"])

    def resumed() -> Any:
        with patch("spectral_ft.training.checkpoints.shutil.rmtree"):
            return last_checkpoint(run / "checkpoints", origin)

    for path in sorted(newest.iterdir()):
        yield "cut in training", path, resumed
    yield "cut in training", run / "train.jsonl", lambda: _log_restored(run, newest)
    yield from _caches(cache, run)


def _log_restored(run: Path, checkpoint: Path) -> str:
    # The rows up to the checkpoint; a resumed training writes the later ones again.
    from spectral_ft.tracking.json_lines import JsonLines
    from spectral_ft.training.step_record import StepRecord

    JsonLines(run / "train.jsonl").restore(StepRecord(checkpoint).rows)
    return (run / "train.jsonl").read_text()


def _caches(cache: Path, run: Path) -> Iterator[tuple[str, Path, Look]]:
    from spectral_ft.data.token_cache import cached_tokenise
    from spectral_ft.evaluation.prepare import PreparedTask
    from spectral_ft.evaluation.records import BaseScoreCache, TaskScores
    from spectral_ft.evaluation.responses import Responses
    from spectral_ft.fingerprint import file_fingerprint
    from spectral_ft.reporting.sweep_plan import SWEEP, PlannedJob, SweepPlan
    from spectral_ft.run_folder import FINISHED
    from spectral_ft.spectral.cache import SpectrumCache
    from spectral_ft.storage import read_json
    from spectral_ft.sweep import _add, _known

    entry = next(cache.rglob("*.npz"))
    of = SpectrumCache(entry.parent.parent, entry.parent.name.removesuffix("-float64-v2"))
    count = len(of.load(entry.stem, _count(entry)).singular_values)  # type: ignore[union-attr]
    yield "cache", entry, lambda: _shown(of.load(entry.stem, count))

    tokens = next(cache.rglob("tokens/*.safetensors"))

    def tokenised() -> Any:
        with (
            patch("spectral_ft.data.token_cache._digest", lambda *_: tokens.stem),
            patch("spectral_ft.data.token_cache.tokenise", lambda *_, **__: MADE),
            patch("spectral_ft.data.token_cache._write"),
        ):
            options: dict[str, Any] = {"max_length": 1, "too_long": "drop", "train_on_inputs": False}
            return cached_tokenise([], None, cache=tokens.parent, tokenizer_fingerprint="", **options)  # type: ignore[arg-type]

    yield "cache", tokens, tokenised

    scores = TaskScores(read_json(run / FINISHED, RunResult).scores, [])
    kept = BaseScoreCache(cache / "flips", model="m", precision="p")
    task = PreparedTask("wordmath", "standard", run, "f")

    def of_base(make: Callable[[], Any] = lambda: scores) -> Any:
        return kept.fetch(task, asked="", version="", score=make)

    of_base()
    (base,) = (cache / "flips").glob("*.json")
    yield "cache", base, of_base

    big = cache / "big"
    big.write_bytes(random.Random(0).randbytes(3 << 20))
    true = file_fingerprint(big)
    (memo,) = [path for path in (cache / "fingerprints").glob("*.json") if true in path.read_text()]
    yield "cache", memo, lambda: file_fingerprint(big)

    answers = cache / "answers.sqlite"
    one = Responses(answers, task="t")
    for number in range(20):
        one.add_partial("loglikelihood", (f"question {number}", "answer"), (-number / 7, True))
    one.batch_size("loglikelihood", fitting=8)
    one.close(finished=False)

    def answered() -> Any:
        again = Responses(answers, task="t")
        found = sorted(map(str, again.dbdict.items()))
        again.close(finished=False)
        return found

    yield "cut in evaluation", answers, answered

    sweep = cache / "sweep"
    _add(
        sweep, SweepPlan("smoke", tuple(PlannedJob(f"{seed:012x}", (f"seed={seed}",), seed=seed) for seed in range(9)))
    )
    yield "sweep", sweep / SWEEP, lambda: _known(sweep)


def _count(entry: Path) -> int:
    import numpy as np

    with np.load(entry) as stored:
        return len(stored["singular_values"])


def _shown(value: Any) -> Any:
    # In a form that can be compared.
    if value is None:
        return MADE
    if isinstance(value, pd.DataFrame):
        return value.to_json()
    if isinstance(value, SpectralReport):
        return value.frame().to_json(), [str(spectrum.singular_values) for spectrum in value.matrices]
    if isinstance(value, Probe):
        return repr(value.columns), [array.tobytes() for array in value.sketches.values()]
    return repr(value)


@contextmanager
def damaged(path: Path, content: bytes) -> Iterator[None]:
    """Another content, for a while; what a reader did to the file is undone."""
    whole = path.read_bytes()
    try:
        path.write_bytes(content)
        yield
    finally:
        path.write_bytes(whole)


def outcome(look: Look, whole: Any, heard: Heard) -> str:
    """What a reader makes of a damaged file."""
    heard.lines.clear()
    try:
        found = _shown(look())
    except SpectralFTError:
        return "refused"
    except Exception as error:
        return f"traceback ({type(error).__name__})"
    if found == _shown(MADE) or found == MADE or (heard.lines and found != whole):
        return MADE if heard.lines or found == MADE else SILENT
    return "same value" if found == whole else SILENT


def contents(whole: bytes, flips: int, name: str) -> Iterator[bytes]:
    """Single flipped bits, and then a zeroed half, a truncated file and an empty one."""
    chance = random.Random(name)
    for _ in range(flips):
        content = bytearray(whole)
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        yield bytes(content)
    half = len(whole) // 2
    yield from (whole[:half] + bytes(len(whole) - half), whole[:half], b"")


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--flips", type=int, default=300)
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of rows: the state, a space, the file")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    heard = Heard()
    kept = patch("spectral_ft.training.checkpoints.remove_checkpoints", lambda _: None)
    with tempfile.TemporaryDirectory() as name, kept:
        folder = Path(name)
        os.environ["SPECTRAL_FT_CACHE"] = str(folder / "cache")
        made_run(folder / "run")
        log = logging.getLogger("spectral_ft")
        log.handlers, log.propagate = [heard], False
        os.fsync = lambda _: None  # type: ignore[assignment]  # nobody cuts the power here
        rows = ["| run | file | bytes | damages | refused | made again | same value | silent or traceback |"]
        rows.append("|---|---|---|---|---|---|---|---|")
        bad = 0
        for state, path, look in looks(folder / "run", folder / "cache"):
            shown = str(path.relative_to(folder / "run") if path.is_relative_to(folder / "run") else path.suffix)
            if not any(fnmatch(f"{state} {shown}", pattern) for pattern in options.only):
                continue
            original, whole = path.read_bytes(), _shown(look())
            found: Counter[str] = Counter()
            for content in contents(original, options.flips, f"{state} {path.name}"):
                with damaged(path, content):
                    found[outcome(look, whole, heard)] += 1
            wrong = sum(found.values()) - sum(found[kind] for kind in ("refused", MADE, "same value"))
            bad += wrong
            counts = [found["refused"], found[MADE], found["same value"]]
            others = ", ".join(
                f"{count} {kind}" for kind, count in found.items() if kind not in {"refused", MADE, "same value"}
            )
            rows.append(
                f"| {state} | `{shown}` | {len(original)} | {sum(found.values())} | "
                f"{' | '.join(map(str, counts))} | {others or 0} |"
            )
            print(rows[-1], flush=True)
        print(f"silent or traceback: {bad}")
        if options.out:
            options.out.write_text("\n".join(rows) + "\n")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
