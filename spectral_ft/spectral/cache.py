"""Singular values on disk: one file a matrix below one folder a checkpoint.

Only singular values and the moments of the entries are kept, never metrics, so that a corrected
formula needs no new pass. A file is a zip, whose checksum is verified when it is read; a damaged one
is removed and made again.
"""

import logging
import zipfile
from pathlib import Path
from typing import get_args

import numpy as np

from spectral_ft.spectral.decomposition import Decomposition, Precision
from spectral_ft.storage import replacing

log = logging.getLogger(__name__)
FORMAT = 2
"""Of the files; part of the folder's name."""


class SpectrumCache:
    """The singular values of one checkpoint, computed in one precision."""

    def __init__(self, folder: Path, fingerprint: str, precision: Precision = "float64") -> None:
        self._folder = folder / f"{fingerprint}-{precision}-v{FORMAT}"

    @property
    def lock_file(self) -> Path:
        """Held by whoever computes this checkpoint's spectrum."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / ".lock"

    def load(self, name: str, count: int) -> Decomposition | None:
        """What is stored of one matrix.

        Args:
            name: Of the matrix.
            count: How many singular values there must be.

        Returns:
            The decomposition; None where nothing usable is stored.
        """
        path = self._path(name)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                s = np.asarray(stored["singular_values"], dtype=np.float64)
                mean, std = (float(value) for value in stored["moments"])
                precision = str(stored["precision"])
            if (
                s.shape == (count,)
                and np.isfinite(s).all()
                and (np.diff(s) <= 0).all()
                and s[-1] >= 0
                and precision in get_args(Precision)
            ):
                return Decomposition(s, mean, std, precision)  # type: ignore[arg-type]
            problem = f"holds {s.shape} values of which some are out of order, negative or not finite"
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            problem = str(error)
        log.warning("cache entry of %s is damaged (%s); it is made again: %s", name, problem, path)
        path.unlink(missing_ok=True)
        return None

    def store(self, name: str, found: Decomposition) -> None:
        """Keep what was computed of one matrix.

        Args:
            name: Of the matrix.
            found: Its decomposition.
        """
        with replacing(self._path(name), durable=False) as part, part.open("wb") as file:
            np.savez(
                file,
                singular_values=found.singular_values,
                moments=np.array([found.mean, found.std]),
                precision=np.array(found.precision),
            )

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npz"
