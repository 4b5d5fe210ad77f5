"""Which matrices a policy may touch, and which of them are at the top."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from spectral_ft.errors import PlanError
from spectral_ft.types import MatrixAllocation, MatrixSpectrum, SpectralReport

Targets = str | list[str] | None
"""Regex on whole module names, list of module types, or all."""
Scope = Literal["per_type", "global"]
Rank = Annotated[int, Field(ge=1)]
Alpha = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
ROUNDING = 1e-9
"""0.7 of 90 is 62.99999999999999 in floating point, and 63."""
Block = Annotated[int, Field(ge=0)]


def candidates(report: SpectralReport, *, target_modules: Targets, lowest_block: int) -> list[MatrixSpectrum]:
    """The matrices that a policy may adapt.

    Args:
        report: Of the model.
        target_modules: Regex that must match a whole module name (or its end, after a dot), list of
            module types, or None for all.
        lowest_block: Leave out the blocks below.

    Returns:
        The spectra of those matrices, in the report's order.

    Raises:
        PlanError: If nothing matches.
    """
    if target_modules is None:
        matching = list(report.matrices)
    elif isinstance(target_modules, str):
        try:
            pattern = re.compile(rf"(.*\.)?({target_modules})")
        except re.error as error:
            raise PlanError(
                f"rank_policy.target_modules={target_modules!r} is no regular expression: {error}."
            ) from error
        matching = [spectrum for spectrum in report.matrices if pattern.fullmatch(spectrum.matrix.name)]
    else:
        unknown = sorted(set(target_modules) - {spectrum.matrix.type for spectrum in report.matrices})
        matching = [] if unknown else [s for s in report.matrices if s.matrix.type in target_modules]
    kept = [spectrum for spectrum in matching if spectrum.matrix.block >= lowest_block]
    if not kept:
        types = sorted({spectrum.matrix.type for spectrum in report.matrices})
        last = max(spectrum.matrix.block for spectrum in report.matrices)
        raise PlanError(
            f"rank_policy.target_modules={target_modules} with lowest_block={lowest_block} matches none of the "
            f"{len(report.matrices)} matrices of {report.model}: its module types are {', '.join(types)}, "
            f"its blocks 0 to {last}, a name is {report.matrices[0].matrix.name}."
        )
    return kept


def top(spectra: Sequence[MatrixSpectrum], *, column: str, fraction: float, scope: Scope) -> set[str]:
    """The names of the highest in a column.

    Args:
        spectra: Candidates.
        column: Column of the report, highest first; ties by name.
        fraction: Of each scope, in (0, 1]; rounded down, at least one matrix.
        scope: `per_type` ranks within each module type, `global` among all.

    Returns:
        Module names.

    Raises:
        PlanError: If the report has no such column, or it is null everywhere.
    """
    scopes: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for spectrum in spectra:
        if column not in spectrum.columns:
            known = ", ".join(spectrum.columns) or "none: the report was made from shapes alone"
            raise PlanError(f"rank_policy.column={column!r} is not in the report; its columns are {known}.")
        value = spectrum.columns[column]
        if value is not None:
            scopes[spectrum.matrix.type if scope == "per_type" else "all"].append((-value, spectrum.matrix.name))
    if not scopes:
        example = spectra[0]
        raise PlanError(
            f"rank_policy.column={column!r} is null for all {len(spectra)} candidates "
            f"({example.matrix.name}: {example.reasons.get(column, 'no reason given')}), so nothing can be selected."
        )
    return {
        name
        for members in scopes.values()
        for _, name in sorted(members)[: max(1, math.floor(fraction * len(members) + ROUNDING))]
    }


def allocate(report: SpectralReport, chosen: set[str], *, rank: int, lora_alpha: float) -> tuple[MatrixAllocation, ...]:
    """Give the chosen matrices one rank and freeze the others.

    Args:
        report: Of the model.
        chosen: Module names.
        rank: LoRA's r.
        lora_alpha: LoRA's alpha.

    Returns:
        One allocation a matrix, in the report's order.

    Raises:
        PlanError: If the rank is above a chosen matrix's smaller side.
    """
    for spectrum in report.matrices:
        if spectrum.matrix.name in chosen and rank > spectrum.matrix.smaller_side:
            raise PlanError(
                f"rank_policy.rank={rank} is above the smaller side of {spectrum.matrix.name}, whose shape is "
                f"{spectrum.matrix.shape}: take at most {spectrum.matrix.smaller_side}."
            )
    return tuple(
        MatrixAllocation(name=name, rank=rank, lora_alpha=lora_alpha)
        if (name := spectrum.matrix.name) in chosen
        else MatrixAllocation(name=name, rank=0, lora_alpha=0.0)
        for spectrum in report.matrices
    )
