"""Which matrices a policy may touch, and which of them are at the top."""

import logging
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from spectral_ft.errors import PlanError
from spectral_ft.spelling import nearest
from spectral_ft.types import MatrixAllocation, MatrixShape, MatrixSpectrum, SpectralReport

log = logging.getLogger(__name__)

Targets = str | list[str] | None
"""Regex on whole module names, list of module types, or all."""
Scope = Literal["per_type", "global"]
Rank = Annotated[int, Field(ge=1)]
Alpha = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(gt=0, le=1)]
ROUNDING = 1e-9
"""0.7 of 90 is 62.99999999999999 in floating point, and 63."""
SHOWN_REASONS = 3
"""Reasons for nulls in one line of the log."""
Block = Annotated[int, Field(ge=0)]


class Given(NamedTuple):
    """What a policy gives to one matrix."""

    rank: int
    lora_alpha: float
    lr_multiplier: float = 1.0


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
        PlanError: If nothing matches, or one of the listed types is unknown.
    """
    types = sorted({spectrum.matrix.type for spectrum in report.matrices})
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
        unknown = [name for name in target_modules if name not in types]
        if 0 < len(unknown) < len(target_modules):
            raise PlanError(
                f"rank_policy.target_modules={target_modules}: {', '.join(unknown)} matches none of the "
                f"{len(report.matrices)} matrices of {report.model}.{nearest(unknown[0], types)} Its module types are "
                f"{', '.join(types)}."
            )
        matching = [s for s in report.matrices if s.matrix.type in target_modules]
    kept = [spectrum for spectrum in matching if spectrum.matrix.block >= lowest_block]
    if not kept:
        last = max(spectrum.matrix.block for spectrum in report.matrices)
        raise PlanError(
            f"rank_policy.target_modules={target_modules} with lowest_block={lowest_block} matches none of the "
            f"{len(report.matrices)} matrices of {report.model}: its module types are {', '.join(types)}, "
            f"its blocks 0 to {last}, a name is {report.matrices[0].matrix.name}."
        )
    return kept


def ranked(spectra: Sequence[MatrixSpectrum], *, column: str, scope: Scope) -> dict[str, list[tuple[float, str]]]:
    """Candidates by the value of a column, highest first, ties by name; those where it is null are left out.

    Args:
        spectra: Candidates.
        column: Of the report.
        scope: `per_type` ranks within each module type, `global` among all.

    Returns:
        Scope to (value, module name).

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
            scopes[spectrum.matrix.type if scope == "per_type" else "all"].append((value, spectrum.matrix.name))
    if not scopes:
        example = spectra[0]
        raise PlanError(
            f"rank_policy.column={column!r} is null for all {len(spectra)} candidates "
            f"({example.matrix.name}: {example.reasons.get(column, 'no reason given')}), so nothing can be selected."
        )
    if null := [spectrum for spectrum in spectra if spectrum.columns[column] is None]:
        reasons = Counter(spectrum.reasons.get(column, "no reason given") for spectrum in null).most_common()
        shown = [f"{count} of them: {reason}" for reason, count in reasons[:SHOWN_REASONS]]
        if others := sum(count for _, count in reasons[SHOWN_REASONS:]):
            shown.append(f"{others} of them: other reasons, which the report has")
        log.warning(
            "%d of %d matrices stay frozen, since rank_policy.column=%s is null for them (%s). %s",
            len(null),
            len(spectra),
            column,
            ", ".join(sorted({spectrum.matrix.type for spectrum in null})),
            "; ".join(shown),
        )
    return {key: sorted(members, key=lambda member: (-member[0], member[1])) for key, members in scopes.items()}


def count_of(fraction: float, count: int) -> int:
    """How many a fraction selects.

    Args:
        fraction: In (0, 1].
        count: Of the scope.

    Returns:
        Rounded down, at least 1.
    """
    return max(1, math.floor(fraction * count + ROUNDING))


def top(spectra: Sequence[MatrixSpectrum], *, column: str, fraction: float, scope: Scope) -> set[str]:
    """The names of the highest in a column.

    Args:
        spectra: Candidates.
        column: Of the report.
        fraction: Of each scope, in (0, 1]; rounded down, at least one matrix.
        scope: As for `ranked`.

    Returns:
        Module names.
    """
    scopes = ranked(spectra, column=column, scope=scope)
    return {name for members in scopes.values() for _, name in members[: count_of(fraction, len(members))]}


def above(spectra: Sequence[MatrixSpectrum], *, column: str, threshold: float) -> set[str]:
    """The names of those above a value in a column.

    Args:
        spectra: Candidates.
        column: Of the report.
        threshold: In the column's unit; what equals it is not above.

    Returns:
        Module names.

    Raises:
        PlanError: If there is none.
    """
    (members,) = ranked(spectra, column=column, scope="global").values()
    chosen = {name for value, name in members if value > threshold}
    if not chosen:
        raise PlanError(
            f"rank_policy.threshold={threshold:g} on {column} selects none of the {len(members)} candidates: the "
            f"highest value is {members[0][0]:.4g} ({members[0][1]}), the median {members[len(members) // 2][0]:.4g}."
        )
    return chosen


def allocate(
    report: SpectralReport, chosen: set[str], *, rank: int, lora_alpha: float, targets: Targets = ""
) -> tuple[MatrixAllocation, ...]:
    """Give the chosen matrices one rank and freeze the others.

    Args:
        report: Of the model.
        chosen: Module names.
        rank: LoRA's r.
        lora_alpha: LoRA's alpha.
        targets: As for `allocate_each`.

    Returns:
        One allocation a matrix, in the report's order.

    Raises:
        PlanError: If the rank is above a chosen matrix's smaller side.
    """
    return allocate_each(report, dict.fromkeys(chosen, Given(rank, lora_alpha)), targets=targets)


def _is_small(matrix: MatrixShape, given: Mapping[str, Given]) -> bool:
    return given[matrix.name].rank > matrix.smaller_side


def allocate_each(
    report: SpectralReport, given: Mapping[str, Given], *, targets: Targets = ""
) -> tuple[MatrixAllocation, ...]:
    """Give each chosen matrix its own rank and freeze the others.

    Args:
        report: Of the model.
        given: Module name to what it gets.
        targets: The policy's `target_modules`. None lets a matrix whose smaller side is below its rank stay frozen,
            and says so; such a matrix that somebody named is refused.

    Returns:
        One allocation a matrix, in the report's order.

    Raises:
        PlanError: If nothing is given, or a rank is above a matrix's smaller side.
    """
    if not given:
        raise PlanError(f"the rank policy selects none of the {len(report.matrices)} matrices of {report.model}.")
    small = [s.matrix for s in report.matrices if s.matrix.name in given and _is_small(s.matrix, given)]
    if targets is None and 0 < len(small) < len(given):
        names = {matrix.name for matrix in small}
        given = {name: got for name, got in given.items() if name not in names}
        log.info(
            "%d matrices stay frozen, since their smaller side is below their rank: %s (%s)",
            len(small),
            ", ".join(sorted({matrix.type for matrix in small})),
            f"{small[0].name} of shape {small[0].shape}",
        )
    allocations = []
    for spectrum in report.matrices:
        name, got = spectrum.matrix.name, given.get(spectrum.matrix.name)
        if got is None:
            allocations.append(MatrixAllocation(name=name, rank=0, lora_alpha=0.0))
            continue
        if got.rank > spectrum.matrix.smaller_side:
            raise PlanError(
                f"rank_policy.rank={got.rank} is above the smaller side of {name}, whose shape is "
                f"{spectrum.matrix.shape}: take at most {spectrum.matrix.smaller_side}."
            )
        allocations.append(MatrixAllocation(name, got.rank, got.lora_alpha, got.lr_multiplier))
    return tuple(allocations)
