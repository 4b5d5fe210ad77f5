"""What a checkpoint is made of, and what was found in it: matrices, their spectra, a probe."""

from typing import Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field
from pydantic.dataclasses import dataclass

from spectral_ft.errors import CheckpointError
from spectral_ft.types.strictness import STRICT

Side = Literal["reads", "writes", "unknown"]
"""Whether a matrix reads the residual stream, writes it, or its architecture is not in the table."""


@dataclass(frozen=True, config=STRICT)
class MatrixShape:
    """One linear weight of a block: what is known of it without its entries."""

    name: str
    """Module path, without `.weight`."""
    type: str
    """What all blocks have one of: `q_proj`, `attn.c_proj`."""
    side: Side
    block: Annotated[int, Field(ge=0)]
    shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None
    """(d_out, d_in), whatever the orientation in the file; None for an imported scan, which does not tell."""

    @property
    def sides(self) -> tuple[int, int]:
        """The shape, where it must be known.

        Raises:
            CheckpointError: If it is not.
        """
        if self.shape is None:
            raise CheckpointError(
                f"the shape of {self.name} is not known: the report was imported from a scan, which has no shapes. "
                "Analyse the checkpoint itself."
            )
        return self.shape

    @property
    def smaller_side(self) -> int:
        """`m`, the largest possible rank."""
        return min(self.sides)


@dataclass(frozen=True, config=STRICT)
class MatrixSpectrum:
    """A matrix, its singular values and what was computed from them."""

    matrix: MatrixShape
    singular_values: np.ndarray | None
    """Descending float64, shape (min(d_out, d_in),); None where nothing asked for them."""
    columns: dict[str, float | None]
    """Metric columns; None where a metric means nothing for this matrix."""
    reasons: dict[str, str] = Field(default_factory=dict)
    """For each None in `columns`, why."""
    fault: str | None = None
    """Why the matrix could not be analysed: a sentence with its name."""
    precision: str | None = None
    """In which the singular values were computed, `float64` or `float32`; None where they were not."""

    def __post_init__(self) -> None:
        """Check the singular values against the shape.

        Raises:
            ValueError: If their number, order, sign or finiteness is wrong.
        """
        s = self.singular_values
        if s is None:
            return
        if s.shape != (self.matrix.smaller_side,):
            raise ValueError(f"{self.matrix.name}: {s.shape} singular values for shape {self.matrix.shape}")
        if not np.isfinite(s).all() or (s < 0).any() or (np.diff(s) > 0).any():
            raise ValueError(f"{self.matrix.name}: singular values must be finite, non-negative and descending")


@dataclass(frozen=True, config=STRICT)
class SpectralReport:
    """What is known of every matrix of one checkpoint."""

    model: str
    fingerprint: str
    """Of the weight files; empty for a report made from shapes alone."""
    settings: dict[str, Any]
    matrices: tuple[MatrixSpectrum, ...]

    def frame(self) -> pd.DataFrame:
        """The report as a table.

        Returns:
            One row a matrix: name, type, side, block, rows, cols, then the metric columns (null
            where a metric means nothing), `precision`, and `reasons`, the explanation of the nulls.
            A matrix that could not be analysed has its fault there.
        """
        return pd.DataFrame([
            {
                "name": spectrum.matrix.name,
                "type": spectrum.matrix.type,
                "side": spectrum.matrix.side,
                "block": spectrum.matrix.block,
                "rows": spectrum.matrix.shape and spectrum.matrix.shape[0],
                "cols": spectrum.matrix.shape and spectrum.matrix.shape[1],
                **spectrum.columns,
                "precision": spectrum.precision,
                "reasons": spectrum.fault or "; ".join(f"{column}: {why}" for column, why in spectrum.reasons.items()),
            }
            for spectrum in self.matrices
        ])


@dataclass(frozen=True, config=STRICT)
class Probe:
    """What a few calibration batches showed of every matrix."""

    ids: tuple[int, ...]
    """Indices of the training examples that were looked at."""
    columns: dict[str, dict[str, float]]
    """Module name to probe columns (`PROBE_COLUMNS`); a subset of them where not all were asked for."""
    sketches: dict[str, np.ndarray] = Field(default_factory=dict)
    """Module name to the gradient's sketch `P_out^T G P_in`, float32 (k, k), summed over the batches."""
    half_sketches: dict[str, np.ndarray] = Field(default_factory=dict)
    """The same over every other batch, the leading (k / 2, k / 2) of it: for the agreement of two halves."""
    components: dict[str, np.ndarray] = Field(default_factory=dict)
    """Module name to the principal directions of its inputs, float32 (rank, d_in), the first first."""


PROBE_COLUMNS = ("gradient", "input_rank")
"""`gradient`: mean over batches of |G|_F^2 / entries of G. `input_rank`: EVA's rank."""
