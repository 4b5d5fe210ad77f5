"""The options of the spectral stage."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.errors import ConfigError
from spectral_ft.types import MatrixShape


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class SpectrumSettings:
    """Which matrices are analysed, how many at a time, and where singular values are kept."""

    include: str | None
    exclude: str | None
    workers: Annotated[int, Field(ge=1)] | None
    cache: str | Literal[False]

    @property
    def worker_count(self) -> int:
        """Matrices decomposed at a time."""
        return self.workers or len(os.sched_getaffinity(0))

    @property
    def cache_folder(self) -> Path | None:
        """The cache, or None where it is off."""
        return Path(self.cache).expanduser() / "spectra" if self.cache else None

    def choose(self, matrices: Sequence[MatrixShape]) -> tuple[MatrixShape, ...]:
        """The matrices that are analysed.

        Args:
            matrices: All block matrices of a checkpoint.

        Returns:
            Those whose name `include` finds and `exclude` does not.

        Raises:
            ConfigError: If none is left, or a pattern is no regular expression.
        """
        try:
            kept = tuple(
                matrix
                for matrix in matrices
                if (self.include is None or re.search(self.include, matrix.name))
                and (self.exclude is None or not re.search(self.exclude, matrix.name))
            )
        except re.error as error:
            raise ConfigError(
                f"spectrum.include={self.include!r} or spectrum.exclude={self.exclude!r} is no regular expression: "
                f"{error}."
            ) from error
        if not kept:
            raise ConfigError(
                f"spectrum.include={self.include!r} and spectrum.exclude={self.exclude!r} leave none of the "
                f"{len(matrices)} matrices; a name is {matrices[0].name}."
            )
        return kept
