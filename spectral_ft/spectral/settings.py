"""The options of the spectral stage."""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.errors import ConfigError
from spectral_ft.spectral.analysis import Analysis
from spectral_ft.spectral.decomposition import Precision, Solver, with_lapack
from spectral_ft.spectral.marchenko_pastur import TRACY_WIDOM
from spectral_ft.spectral.metrics import COLUMNS, MetricOptions
from spectral_ft.types import MatrixShape


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class SpectrumSettings:
    """Which matrices are analysed, how, and where singular values are kept."""

    include: str | None
    exclude: str | None
    dequantize: bool
    precision: Precision
    device: str
    workers: Annotated[int, Field(ge=1)] | None
    memory_gib: Annotated[float, Field(gt=0)] | None
    null_draws: Annotated[int, Field(ge=0)]
    edge_level: float
    histogram_bins: Annotated[int, Field(ge=10)]
    eigenvalue_threshold: Annotated[float, Field(gt=0)] | None
    columns: dict[str, Callable[..., Any]]
    cache: str | Literal[False]

    def __post_init__(self) -> None:
        """Check what pydantic cannot.

        Raises:
            ConfigError: If `edge_level` is no known quantile, or a column of the user's has the name of ours.
        """
        if taken := sorted(set(self.columns) & set(COLUMNS)):
            raise ConfigError(f"spectrum.columns has {taken[0]}, which is a column already: give it another name.")
        if self.edge_level not in TRACY_WIDOM:
            known = " or ".join(map(str, TRACY_WIDOM))
            raise ConfigError(f"spectrum.edge_level={self.edge_level} is not known: take {known}.")

    @property
    def analysis(self) -> Analysis:
        """How matrices are analysed.

        Raises:
            ConfigError: If torch has no such device.
        """
        on_cpu = self.device == "cpu"
        cores = len(os.sched_getaffinity(0)) if on_cpu else 1  # one matrix at a time in device memory
        half_of_free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
        return Analysis(
            workers=self.workers or cores,
            memory=half_of_free if self.memory_gib is None else int(self.memory_gib * 2**30),
            precision=self.precision,
            null_draws=self.null_draws,
            options=MetricOptions(
                self.edge_level, self.histogram_bins, self.eigenvalue_threshold, further=self.columns
            ),
            solver=with_lapack if on_cpu else self._on_device(),
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """What a report says of how it was made."""
        names = (
            "include",
            "exclude",
            "dequantize",
            "precision",
            "null_draws",
            "edge_level",
            "histogram_bins",
            "eigenvalue_threshold",
        )
        own = {name: _origin(metric) for name, metric in self.columns.items()}
        return {name: getattr(self, name) for name in names} | ({"columns": own} if own else {})

    @property
    def cache_folder(self) -> Path | None:
        """The cache, or None where it is off."""
        return Path(self.cache).expanduser() / "spectra" if self.cache else None

    def _on_device(self) -> Solver:
        import torch

        from spectral_ft.spectral.on_device import with_torch

        try:
            torch.zeros(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(
                f"spectrum.device={self.device!r} cannot be used: {str(error).splitlines()[0]}. Take cpu, or cuda "
                "where torch finds a GPU."
            ) from error
        return with_torch(self.device)

    def wants(self, name: str) -> bool:
        """Whether a matrix is to be analysed.

        Args:
            name: Of the matrix.

        Returns:
            True where `include` finds it and `exclude` does not.
        """
        included = self.include is None or re.search(self.include, name)
        return bool(included and (self.exclude is None or not re.search(self.exclude, name)))

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
            kept = tuple(matrix for matrix in matrices if self.wants(matrix.name))
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


def _origin(metric: Callable[..., Any]) -> str:
    function = getattr(metric, "func", metric)
    return f"{function.__module__}.{function.__qualname__}"
