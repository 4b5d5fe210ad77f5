"""Oracle: nothing gets a rank, whatever the report."""

import pytest
from pydantic import ValidationError

from spectral_ft.allocation.none import NoPolicy
from spectral_ft.types import MatrixAllocation, MatrixSpectrum, SpectralReport
from tests.oracles import matrix, report


def test_every_matrix_is_frozen_in_the_order_of_the_report():
    of = report({"1.q_proj": 2.0, "0.q_proj": None})
    frozen = [MatrixAllocation("model.layers.1.q_proj", 0, 0.0), MatrixAllocation("model.layers.0.q_proj", 0, 0.0)]
    assert list(NoPolicy().allocate(of)) == frozen


def test_shapes_are_enough_even_where_they_are_not_known():
    bare = MatrixSpectrum(matrix("0.q_proj", None), singular_values=None, columns={})
    (only,) = NoPolicy().allocate(SpectralReport("by hand", "", {}, (bare,)))
    assert not only.rank and not NoPolicy.reads


def test_there_are_no_options():
    with pytest.raises(ValidationError, match="rank"):
        NoPolicy(rank=8)
