"""Oracle: what a value must refuse, and percentages by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from spectral_ft.errors import CheckpointError
from spectral_ft.types import (
    PROBE_COLUMNS,
    AllocationPlan,
    Cost,
    MatrixAllocation,
    MatrixShape,
    MatrixSpectrum,
    Probe,
    Round,
    SpectralReport,
)
from tests.oracles import law, matrix, report


def spectrum(values, shape=(3, 5)):
    return MatrixSpectrum(matrix=matrix("0.q_proj", shape), singular_values=values, columns={})


def test_as_many_singular_values_as_the_smaller_side():
    assert spectrum(np.array([3.0, 2.0, 0.0])).singular_values.shape == (3,)
    with pytest.raises(ValueError, match=r"model\.layers\.0\.q_proj: \(2,\) singular values for shape \(3, 5\)"):
        spectrum(np.array([3.0, 2.0]))


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0], [2.0, 1.0, -1.0], [np.nan, 1.0, 0.0], [np.inf, 1.0, 0.0]])
def test_singular_values_are_finite_nonnegative_and_descending(values):
    with pytest.raises(ValueError, match="must be finite, non-negative and descending"):
        spectrum(np.array(values))


def test_the_sides_of_a_matrix_are_its_shape():
    assert (matrix("0.q_proj", (3, 5)).sides, matrix("0.q_proj", (7, 5)).smaller_side) == ((3, 5), 5)


@pytest.mark.parametrize("asked", ["sides", "smaller_side"])
def test_sides_that_are_not_known_are_refused_by_name(asked):
    with pytest.raises(CheckpointError, match=r"the shape of model\.layers\.0\.q_proj is not known: .*from a scan"):
        getattr(matrix("0.q_proj", None), asked)


def test_singular_values_need_a_shape():
    with pytest.raises(CheckpointError, match="is not known"):
        spectrum(np.array([1.0]), None)
    assert spectrum(None, None).singular_values is None


@pytest.mark.parametrize("wrong", [{"block": -1}, {"shape": (0, 3)}, {"shape": (3,)}, {"side": "both"}, {"layer": 1}])
def test_a_matrix_that_cannot_be_is_refused(wrong):
    right = {"name": "w", "type": "w", "side": "reads", "block": 0, "shape": (2, 3)}
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        MatrixShape(**right | wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": -1},
        {"rank": 1.5},
        {"lora_alpha": -1.0},
        {"lr_multiplier": -0.5},
        {"shares": "BA"},
        {"shares": ""},
        {"scaling": 2.0},
    ],
)
def test_an_allocation_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        MatrixAllocation(**{"name": "w", "rank": 1, "lora_alpha": 1.0} | wrong)


def test_an_adapter_may_stay_as_it_is():
    kept = MatrixAllocation(name="w", rank=2, lora_alpha=1.0, lr_multiplier=0.0)
    assert (kept.group, kept.shares, kept.lr_multiplier) == (None, None, 0.0)
    counts = {"trainable_parameters": 0, "adapter_parameters": 10, "base_parameters": 90}
    plan = AllocationPlan(allocations=(kept,), **counts)
    assert plan.adapted == (kept,) and plan.trainable_percent == 0


@pytest.mark.parametrize("shares", ["AB", "A", "B"])
def test_what_is_shared_is_the_pair_or_one_factor(shares):
    assert MatrixAllocation(name="w", rank=1, lora_alpha=1.0, group="w/0", shares=shares).shares == shares


@pytest.mark.parametrize("wrong", [{"a": -1}, {"b": -1}, {"fixed": -1}, {"a": 1.5}, {"per_rank": 3}])
def test_a_cost_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Cost(**{"a": 1, "b": 2} | wrong)


def test_a_cost_has_nothing_fixed_unless_said():
    assert Cost(a=3, b=2) == Cost(a=3, b=2, fixed=0)


def test_a_probe_may_have_columns_alone():
    probe = Probe(ids=(3, 1), columns={"w": {"gradient": 0.5}})
    assert (probe.sketches, probe.half_sketches, probe.components) == ({}, {}, {})
    assert PROBE_COLUMNS == ("gradient", "input_rank")


@pytest.mark.parametrize(
    "wrong",
    [{"ids": (0.5,)}, {"columns": {"w": 1.0}}, {"columns": {"w": {"gradient": None}}}, {"sketches": {"w": [[1.0]]}}],
)
def test_a_probe_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Probe(**{"ids": (), "columns": {}} | wrong)


def test_a_round_keeps_the_plan_and_what_it_was_made_of():
    plan = AllocationPlan((), trainable_parameters=1, adapter_parameters=1, base_parameters=1)
    measured = Round(step=9, applied=False, changed=("w",), plan=plan, columns={"snr": {"w": None, "v": 2.0}})
    assert measured.plan.trainable_percent == 50 and measured.columns["snr"]["w"] is None
    with pytest.raises(ValidationError, match="changed"):
        Round(step=9, applied=True, changed="w", plan=plan, columns={})


@law
@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(1, 10**12))
def test_a_percentage_is_never_above_a_hundred_where_only_adapters_are_trained(one, other, base):
    trained, added = sorted([one, other])
    plan = AllocationPlan((), trainable_parameters=trained, adapter_parameters=added, base_parameters=base)
    assert 0 <= plan.trainable_percent < 100
    assert plan.trainable_percent * (base + added) == pytest.approx(100 * trained)


def test_the_percentage_is_of_the_adapted_model_whatever_is_said():
    counts = {"trainable_parameters": 5, "adapter_parameters": 10, "base_parameters": 90}
    assert AllocationPlan(allocations=(), **counts).trainable_percent == 5
    assert AllocationPlan(allocations=(), **counts, trainable_percent=99.0).trainable_percent == 5


def test_the_adapted_matrices_are_those_with_a_rank():
    frozen, adapted = (MatrixAllocation(name=f"w{rank}", rank=rank, lora_alpha=1.0) for rank in (0, 2))
    plan = AllocationPlan(
        allocations=(frozen, adapted), trainable_parameters=1, adapter_parameters=1, base_parameters=1
    )
    assert plan.adapted == (adapted,)


def test_a_value_cannot_be_changed():
    with pytest.raises(AttributeError):
        matrix("0.q_proj").block = 3


def test_a_table_has_a_row_a_matrix_and_explains_its_nulls():
    frame = report({"0.q_proj": 0.5, "3.up_proj": None}, shape=(4, 6)).frame()
    assert frame.drop(columns=["name", "side", "precision"]).fillna(-1).to_dict("records") == [
        {"type": "q_proj", "block": 0, "rows": 4, "cols": 6, "snr": 0.5, "reasons": ""},
        {"type": "up_proj", "block": 3, "rows": 4, "cols": 6, "snr": -1, "reasons": "snr: made null here"},
    ]


def test_a_table_has_no_sides_where_the_shape_is_unknown_and_tells_a_fault():
    fault = "3.up_proj cannot be analysed"
    broken = MatrixSpectrum(matrix("3.up_proj", None), None, {"snr": None}, {"snr": "no spectrum"}, fault)
    frame = SpectralReport(model="m", fingerprint="", settings={}, matrices=(broken,)).frame()
    assert frame[["rows", "cols", "snr"]].isna().all(axis=None)
    assert frame["reasons"].tolist() == [fault]
