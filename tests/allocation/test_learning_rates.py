"""Learning rates by a column; oracle: TempBalance's formula on numbers typed in."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.allocation.learning_rates import AsAllocated, ByColumn
from spectral_ft.errors import ConfigError, PlanError
from spectral_ft.types import MatrixAllocation, MatrixShape, MatrixSpectrum, SpectralReport

TEMP_BALANCE = ByColumn("alpha_hill_median", 0.5, 1.5)


def report(*values: float | None) -> SpectralReport:
    spectra = tuple(
        MatrixSpectrum(
            MatrixShape(f"m{number}", "q_proj", "reads", number, (4, 4)),
            None,
            {"alpha_hill_median": value},
        )
        for number, value in enumerate(values)
    )
    return SpectralReport(model="m", fingerprint="", settings={}, matrices=spectra)


def allocations(count: int, **changes: object) -> tuple[MatrixAllocation, ...]:
    return tuple(replace(MatrixAllocation(f"m{number}", 2, 4.0), **changes) for number in range(count))  # type: ignore[arg-type]


def multipliers(given: tuple[MatrixAllocation, ...]) -> list[float]:
    return [allocation.lr_multiplier for allocation in given]


def test_the_formula() -> None:
    scaled = TEMP_BALANCE.scale(allocations(3), report(2.0, 3.0, 6.0))
    assert multipliers(scaled) == pytest.approx([0.5, 0.75, 1.5])


def test_a_policys_own_multiplier_is_kept_as_a_factor() -> None:
    scaled = TEMP_BALANCE.scale(allocations(2, lr_multiplier=0.5), report(2.0, 6.0))
    assert multipliers(scaled) == pytest.approx([0.25, 0.75])


def test_frozen_matrices_do_not_count() -> None:
    plan = (*allocations(2), MatrixAllocation("m2", 0, 0.0))
    scaled = TEMP_BALANCE.scale(plan, report(2.0, 6.0, None))
    assert multipliers(scaled[:2]) == pytest.approx([0.5, 1.5]) and scaled[2] == plan[2]


def test_members_of_a_group_learn_alike() -> None:
    plan = tuple(replace(a, group="g", shares="AB") if number < 2 else a for number, a in enumerate(allocations(3)))
    scaled = TEMP_BALANCE.scale(plan, report(2.0, 4.0, 5.0))
    assert multipliers(scaled) == pytest.approx([0.5, 0.5, 1.5])


def test_equal_values_get_the_middle() -> None:
    assert multipliers(TEMP_BALANCE.scale(allocations(3), report(2.0, 2.0, 2.0))) == [1.0] * 3


@given(st.lists(st.floats(1, 10), min_size=1, max_size=12))
def test_bounds_and_order(values: list[float]) -> None:
    found = multipliers(TEMP_BALANCE.scale(allocations(len(values)), report(*values)))
    assert all(0.5 <= each <= 1.5 for each in found)
    order = sorted(range(len(values)), key=values.__getitem__)
    assert [found[place] for place in order] == sorted(found)


def test_a_missing_value_is_named() -> None:
    with pytest.raises(PlanError, match=r"lr_by\.column=alpha_hill_median has no value for m1: choose a column"):
        TEMP_BALANCE.scale(allocations(2), report(2.0, None))
    with pytest.raises(ConfigError, match=r"lr_by\.column is empty"):
        ByColumn("", 0.5, 1.5)


def test_none_changes_nothing() -> None:
    assert AsAllocated().scale(allocations(2), report(1.0, 2.0)) == allocations(2)
    assert AsAllocated().reads == frozenset() and TEMP_BALANCE.reads == {"alpha_hill_median"}
