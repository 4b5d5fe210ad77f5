"""What a model has answered so far, on disk, so that a killed evaluation goes on within its task.

The harness's own response cache, with two differences: JSON and a digest stand in the place of pickle, since a run
folder may come from somebody else, and be damaged; and answers are committed a batch at a time, so that what is left
falls into the same batches as in an evaluation that was not killed. So the size of batches is kept too, if it was found
and not asked for.
"""

import json
import logging
import math
import os
import re
import sqlite3
from collections import deque
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from lm_eval.api.model import LM, CacheHook, CachingLM, hash_args
from sqlitedict import SqliteDict

from spectral_ft.errors import CheckpointError
from spectral_ft.storage import text_digest

log = logging.getLogger(__name__)
BATCH_SIZE, ENDED, SHA_256 = "batch size of ", " ended", re.compile("[0-9a-f]{64}")
"""What the keys look like: the harness's digest of a request, alone or with a word, and the size of batches."""


class Responses(CacheHook):
    """Answers by request, and of written ones whether they came to an end; the harness hands them over row by row."""

    def __init__(self, file: Path, *, task: str) -> None:
        """Open, or begin.

        Args:
            file: Made; it belongs to one task and one model with one adapter.
            task: For errors.
        """
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists() and not _is_whole(file):
            log.warning("%s is damaged: what it held is asked again", file)
            file.unlink()
        self.dbdict = SqliteDict(os.fspath(file), encode=_encoded, decode=_decoded)
        self._file = file
        self._task = task
        self._rows: deque[bool] = deque()

    def batch_size(self, attr: str, *, fitting: int) -> int:
        """How many items to take at a time: as many as the task began with, where they still fit.

        Args:
            attr: What is asked for.
            fitting: How many fit now.

        Returns:
            The size, which is kept.
        """
        key = f"{BATCH_SIZE}{attr}"
        size = min(int(self.dbdict.get(key, fitting)), fitting)
        self.dbdict[key] = size
        return size

    def batch_begins(self) -> None:
        """Keep what was answered before."""
        self.dbdict.commit(blocking=False)

    def batch_ended(self, rows: Iterable[bool]) -> None:
        """Note of a written batch which answers came to an end.

        Args:
            rows: In the order in which the harness will hand the answers over.
        """
        self._rows = deque(rows)

    def add_partial(self, attr: str, req: Iterable[Any], res: Any) -> None:
        """Take one answer.

        Args:
            attr: What was asked for.
            req: The request.
            res: The answer.

        Raises:
            CheckpointError: If it is a likelihood that is no finite number; it is not kept.
        """
        if attr == "loglikelihood" and not math.isfinite(res[0]):
            _, completion = req
            raise CheckpointError(
                f"benchmark {self._task}: the log-likelihood of {completion!r} is {res[0]}. The model is damaged, its "
                "training diverged, or its dtype overflows (model.dtype=float32 tells)."
            )
        key = hash_args(attr, req)
        self.dbdict[key] = res
        if attr == "generate_until":
            self.dbdict[key + ENDED] = self._rows.popleft()

    def ended(self, prompt: str, options: dict[str, Any]) -> bool:
        """Whether a written answer came to an end by itself.

        Args:
            prompt: The request.
            options: Its generation settings.

        Returns:
            False where the limit of new tokens cut it.
        """
        return bool(self.dbdict.get(hash_args("generate_until", (prompt, options)) + ENDED, True))

    def close(self, *, finished: bool) -> None:
        """Let go of the file.

        Args:
            finished: The task is done: the file is removed.
        """
        self.dbdict.commit()
        self.dbdict.close()
        if finished:
            self._file.unlink(missing_ok=True)


class OnceAsked(CachingLM):
    """A model that is asked only what it has not answered yet."""

    def __init__(self, lm: LM, responses: Responses) -> None:
        """Begin.

        Args:
            lm: Asked.
            responses: Of it so far.
        """
        self.lm = lm
        self.cache_db = ""
        self.dbdict = responses.dbdict
        lm.set_cache_hook(responses)


def _is_whole(file: Path) -> bool:
    try:
        with closing(sqlite3.connect(file)) as connection:
            if connection.execute("PRAGMA integrity_check").fetchone()[0] != "ok":
                return False
            for key, value in connection.execute("SELECT key, value FROM unnamed"):
                if not (isinstance(key, str) and isinstance(value, str)):
                    return False
                if not (key.startswith(BATCH_SIZE) or SHA_256.fullmatch(key.removesuffix(ENDED))):
                    return False
                _decoded(value)
            return True
    except (sqlite3.DatabaseError, ValueError):
        return False


def _encoded(value: Any) -> str:
    text = json.dumps(value)
    return f"{text_digest(text)} {text}"


def _decoded(stored: str) -> Any:
    digest, _, text = stored.partition(" ")
    if digest != text_digest(text):
        raise ValueError(f"the digest of {text!r:.100} is another one")
    return json.loads(text)
