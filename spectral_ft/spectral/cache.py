"""Singular values on disk: one file a matrix below one folder a checkpoint.

Only singular values are kept, never metrics, so that a corrected formula needs no new pass. A file
is a zip, whose checksum is verified when it is read; a damaged one is removed and made again.
"""

import logging
import zipfile
from pathlib import Path

import numpy as np

from spectral_ft.storage import replacing

log = logging.getLogger(__name__)
PRECISION = "float64-gram"
"""How the values were computed; part of the folder's name."""


class SpectrumCache:
    """The singular values of one checkpoint."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._folder = folder / f"{fingerprint}-{PRECISION}"

    @property
    def lock_file(self) -> Path:
        """Held by whoever computes this checkpoint's spectrum."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return self._folder / ".lock"

    def load(self, name: str, count: int) -> np.ndarray | None:
        """The stored singular values of one matrix.

        Args:
            name: Of the matrix.
            count: How many there must be.

        Returns:
            Descending float64, shape (count,); None where nothing usable is stored.
        """
        path = self._path(name)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                s = np.asarray(stored["singular_values"], dtype=np.float64)
            if s.shape == (count,) and np.isfinite(s).all() and (np.diff(s) <= 0).all() and s[-1] >= 0:
                return s
            problem = f"holds {s.shape} values of which some are out of order, negative or not finite"
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            problem = str(error)
        log.warning("cache entry of %s is damaged (%s); it is made again: %s", name, problem, path)
        path.unlink(missing_ok=True)
        return None

    def store(self, name: str, singular_values: np.ndarray) -> None:
        """Keep the singular values of one matrix.

        Args:
            name: Of the matrix.
            singular_values: Descending float64, shape (m,).
        """
        with replacing(self._path(name)) as part, part.open("wb") as file:
            np.savez(file, singular_values=singular_values)

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.npz"
