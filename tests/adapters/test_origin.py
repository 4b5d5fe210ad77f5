"""What an adapter was trained on; oracles: the file's text, both numbers."""

from pathlib import Path

import pytest

from spectral_ft.adapters.origin import FILE, Origin, check_origin, write_origin
from spectral_ft.errors import CheckpointError, RunError
from spectral_ft.types import AllocationPlan, MatrixAllocation
from tests.conftest import edit_json

HERE, ELSEWHERE = "a" * 32, "b" * 32
PLAN = AllocationPlan(
    (
        MatrixAllocation("0.q_proj", 4, 8.5, 0.5, "g", "A"),
        MatrixAllocation("0.k_proj", 0, 0.0),
        MatrixAllocation("0.v_proj", 2, 1.0, 0.0),
    ),
    trainable_parameters=30,
    adapter_parameters=70,
    base_parameters=230,
)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write_origin(tmp_path, model="tiny", fingerprint=HERE, plan=PLAN)
    origin = check_origin(tmp_path, model="whatever", fingerprint=HERE)
    assert origin == Origin("tiny", HERE, PLAN)
    assert origin is not None and origin.plan.trainable_percent == 10.0


def test_an_adapter_of_another_base_is_refused_with_both_fingerprints(tmp_path: Path) -> None:
    write_origin(tmp_path, model="tiny", fingerprint=HERE, plan=PLAN)
    expected = rf"was trained on tiny \(fingerprint {HERE}\), not on smollm2 \(fingerprint {ELSEWHERE}\)"
    with pytest.raises(CheckpointError, match=expected):
        check_origin(tmp_path, model="smollm2", fingerprint=ELSEWHERE)


def test_an_adapter_made_elsewhere_has_no_origin(tmp_path: Path) -> None:
    assert check_origin(tmp_path, model="tiny", fingerprint=HERE) is None


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    write_origin(folder, model="tiny", fingerprint=HERE, plan=PLAN)
    edit_json(folder / FILE, fingerprint=None)
    with pytest.raises(RunError, match=rf"{FILE} is damaged or was edited: manifest"):
        check_origin(folder, model="tiny", fingerprint=HERE)
    (tmp_path / "manifest.json").unlink()  # as an earlier version left it
    with pytest.raises(RunError, match=rf"{FILE} is damaged or was edited: fingerprint"):
        check_origin(folder, model="tiny", fingerprint=HERE)
    (folder / FILE).write_text("{")
    with pytest.raises(RunError, match=rf"{FILE} is damaged or was edited: the file"):
        check_origin(folder, model="tiny", fingerprint=HERE)
