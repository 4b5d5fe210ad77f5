"""Oracle: every candidate has the one rank, everything else none."""

import pytest
from pydantic import ValidationError

from spectral_ft.allocation.uniform import Uniform
from spectral_ft.errors import PlanError
from spectral_ft.types import MatrixSpectrum, SpectralReport
from tests.oracles import matrix

SHAPES_ALONE = SpectralReport(
    model="by hand",
    fingerprint="",
    settings={},
    matrices=tuple(
        MatrixSpectrum(matrix=matrix(name), singular_values=None, columns={})
        for name in ("0.q_proj", "0.up_proj", "1.q_proj")
    ),
)


def uniform(**options):
    return Uniform(**{"rank": 2, "lora_alpha": 4.0, "target_modules": None, "lowest_block": 0} | options)


def test_shapes_are_enough():
    assert [a.rank for a in uniform().allocate(SHAPES_ALONE)] == [2, 2, 2]
    assert not uniform().reads


def test_what_is_no_candidate_is_frozen():
    allocations = uniform(target_modules=["q_proj"], lowest_block=1).allocate(SHAPES_ALONE)
    assert [(a.rank, a.lora_alpha) for a in allocations] == [(0, 0), (0, 0), (2, 4)]


def test_a_rank_above_a_side_is_refused():
    with pytest.raises(PlanError, match=r"rank_policy\.rank=9 is above the smaller side"):
        uniform(rank=9).allocate(SHAPES_ALONE)


@pytest.mark.parametrize(
    "wrong", [{"rank": 0}, {"rank": 2.5}, {"lora_alpha": 0}, {"lowest_block": -1}, {"column": "snr"}]
)
def test_options_that_cannot_be_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        uniform(**wrong)
