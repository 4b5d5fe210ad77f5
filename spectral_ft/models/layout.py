"""Where the matrices of a checkpoint are: its tensors compared with the model that `config.json` builds.

The comparison needs torch and transformers. A process that has not loaded torch asks another one for it, and keeps the
answer in the cache, so that the next analysis starts without either.
"""

import json
import logging
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

from pydantic import TypeAdapter

from spectral_ft.errors import CheckpointError, RunError
from spectral_ft.fingerprint import cache_home, file_fingerprint, text_fingerprint
from spectral_ft.models.places import Layout, LayoutRequest
from spectral_ft.storage import read_json, write_json

log = logging.getLogger(__name__)

FORMAT = 1
"""Of the answers in the cache; raise it when a comparison would give another answer."""
LONGEST = 600
"""Seconds that building a model without weights may take in another process."""


def layout(request: LayoutRequest) -> Layout:
    """Find the matrices of a checkpoint.

    Args:
        request: What is known of it.

    Returns:
        Where they are; remembered by `config.json`, the tensors' names and shapes, and the version of transformers.

    Raises:
        CheckpointError: If the comparison ends without an answer.
    """
    known = asdict(request) | {"folder": ""}
    folder = Path(request.folder)
    code = sorted(folder.glob("*.py")) if request.trust_remote_code else []
    about = [
        FORMAT,
        version("transformers"),
        known,
        [file_fingerprint(path) for path in (folder / "config.json", *code)],
    ]
    return _layout(text_fingerprint(json.dumps(about)), json.dumps(asdict(request)))


@lru_cache(maxsize=64)
def _layout(key: str, request: str) -> Layout:
    cached = cache_home() / "layouts" / f"{key}.json"
    answer: Layout | None = None
    if cached.exists():
        with suppress(RunError):  # damaged: compared again
            answer = read_json(cached, Layout)
    if answer is None:
        answer = _compare(request)
        with suppress(OSError):  # as for fingerprints: a cache that cannot be written is not a fault
            write_json(cached, answer)
    _tell(answer)
    return answer


def _compare(request: str) -> Layout:
    if "torch" in sys.modules:
        from spectral_ft.models.modules import lay_out

        return lay_out(TypeAdapter(LayoutRequest).validate_json(request))
    with tempfile.TemporaryDirectory() as folder:
        question, answer = Path(folder) / "request.json", Path(folder) / "answer.json"
        question.write_text(request)
        command = [sys.executable, "-m", "spectral_ft.models.modules", str(question), str(answer)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
        except subprocess.TimeoutExpired as error:
            raise CheckpointError(
                f"building the model of config.json without weights took more than {LONGEST} s: check its sizes, such "
                "as num_hidden_layers."
            ) from error
        if done.returncode or not answer.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CheckpointError(
                f"the matrices could not be compared with the model that config.json builds: the process ended with "
                f"code {done.returncode}: {last}"
            )
        return read_json(answer, Layout)


def _tell(answer: Layout) -> None:
    if answer.not_compared is not None:
        log.warning("matrices were not compared with the model: %s", answer.not_compared)
    if answer.left_out:
        each = [f"{len(names)} {reason} ({names[0]})" for reason, names in answer.left_out.items()]
        log.info("not analysed, since they are not linear maps of a %s: %s", answer.model_class, "; ".join(each))
