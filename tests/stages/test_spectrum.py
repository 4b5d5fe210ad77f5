"""Oracle: a copy of the embedded model, damaged in known places."""

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

from spectral_ft.errors import CheckpointError
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.models.tensors import INDEX
from spectral_ft.stages.spectrum import (
    faults,
    listing,
    report_of_matrices,
    report_of_shapes,
    report_with_spectra,
    sound_report,
)
from spectral_ft.storage import read_report
from tests.spectral.test_settings import settings

ONE = "model.layers.1.mlp.up_proj"


QUICK = settings(include=r"layers\.1\.mlp")
"""Three matrices."""


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def spoil(tensors):
    tensors[f"{ONE}.weight"][0, 0] = float("nan")


def repair(tensors):
    tensors[f"{ONE}.weight"][0, 0] = 0.0


def test_the_report_is_the_file_that_it_leaves(checkpoint_copy, tmp_path):
    report = report_with_spectra("m", Checkpoint(checkpoint_copy), QUICK, tmp_path)
    assert len(report.matrices) == 3
    assert report.frame().equals(read_report(tmp_path / "spectrum.parquet").frame())
    assert report.settings == QUICK.provenance | {"packing": None}
    assert report.fingerprint == Checkpoint(checkpoint_copy).fingerprint


def test_a_report_that_is_there_is_read(checkpoint_copy, tmp_path):
    first = report_with_spectra("m", Checkpoint(checkpoint_copy), QUICK, tmp_path)
    again = report_with_spectra("other", Checkpoint(checkpoint_copy), settings(), tmp_path)
    assert again.model == "m"
    assert again.frame().equals(first.frame())


def test_a_damaged_matrix_is_a_fault_of_the_report(checkpoint_copy, tmp_path):
    edit(checkpoint_copy, spoil)
    checkpoint = Checkpoint(checkpoint_copy)
    report = report_with_spectra("m", checkpoint, QUICK, tmp_path)
    (fault,) = faults(report, checkpoint, settings())
    assert fault.startswith(f"{ONE}.weight cannot be analysed: 1 of ")
    assert sum(spectrum.singular_values is not None for spectrum in report.matrices) == 2


def test_a_sound_report_refuses_a_damaged_matrix_after_the_others_are_written(checkpoint_copy, tmp_path):
    edit(checkpoint_copy, spoil)
    with pytest.raises(CheckpointError, match=rf"^{ONE}\.weight cannot be analysed"):
        sound_report("m", Checkpoint(checkpoint_copy), QUICK, tmp_path)
    assert len(read_report(tmp_path / "spectrum.parquet").matrices) == 3


def test_the_same_folder_goes_on_once_the_checkpoint_is_repaired(checkpoint_copy, tmp_path):
    edit(checkpoint_copy, spoil)
    with pytest.raises(CheckpointError):
        sound_report("m", Checkpoint(checkpoint_copy), QUICK, tmp_path)
    edit(checkpoint_copy, repair)
    assert len(sound_report("m", Checkpoint(checkpoint_copy), QUICK, tmp_path).matrices) == 3


@pytest.mark.parametrize("stage", [sound_report, lambda *given: report_of_shapes(*given[:3])])
def test_a_missing_matrix_is_refused_before_anything_is_read(checkpoint_copy, tmp_path, stage):
    names = dict.fromkeys(load_file(checkpoint_copy / "model.safetensors"), "model.safetensors")
    (checkpoint_copy / INDEX).write_text(json.dumps({"weight_map": names | {f"{ONE}.weight": "gone.safetensors"}}))
    edit(checkpoint_copy, lambda tensors: tensors.pop(f"{ONE}.weight"))
    with pytest.raises(CheckpointError, match=rf"{ONE}\.weight is missing"):
        stage("m", Checkpoint(checkpoint_copy), settings(), tmp_path)
    assert not (tmp_path / "spectrum.parquet").exists()


def test_shapes_are_reported_without_reading_a_weight(checkpoint_copy):
    edit(checkpoint_copy, spoil)
    report = report_of_shapes("m", Checkpoint(checkpoint_copy), settings())
    assert {s.matrix.name: s.matrix.shape for s in report.matrices}[ONE] == (512, 192)
    assert len(report.matrices) == 28
    assert all(s.columns == {} and s.singular_values is None for s in report.matrices)


def test_packed_weights_have_a_place_of_their_own_in_the_cache(checkpoint_copy, tmp_path):
    checkpoint = Checkpoint(checkpoint_copy)
    kept = settings(include=r"layers\.1\.mlp", cache=str(tmp_path / "cache"))

    def analysed(packing):
        return report_of_matrices(
            "m", checkpoint.block_matrices, kept, fingerprint=checkpoint.fingerprint, packing=packing
        )

    plain, packed = analysed(None), analysed("int8")
    assert packed.fingerprint == f"{plain.fingerprint}-int8"
    assert len(list((tmp_path / "cache").rglob("*.npz"))) == 6
    for again, first in ((analysed("int8"), packed), (analysed(None), plain)):
        assert again.frame().equals(first.frame())
    for one, other in zip(plain.matrices, packed.matrices, strict=True):
        assert one.columns["spectral_norm"] != other.columns["spectral_norm"]
        assert one.columns["spectral_norm"] == pytest.approx(other.columns["spectral_norm"], rel=0.02)


def test_weights_without_a_fingerprint_are_not_kept(checkpoint_copy, tmp_path):
    kept = settings(include=r"layers\.1\.mlp", cache=str(tmp_path / "cache"))
    report = report_of_matrices("m", Checkpoint(checkpoint_copy).block_matrices, kept, fingerprint=None)
    assert report.fingerprint == ""
    assert not list(tmp_path.rglob("*.npz"))


def test_a_damaged_report_is_made_again(checkpoint_copy, tmp_path, caplog):
    first = report_with_spectra("m", Checkpoint(checkpoint_copy), QUICK, tmp_path).frame()
    (tmp_path / "spectrum.parquet").write_bytes(b"PAR1")
    again = report_with_spectra("m", Checkpoint(checkpoint_copy), QUICK, tmp_path).frame()
    pd.testing.assert_frame_equal(again, first)
    assert "spectrum.parquet is damaged" in caplog.text


def test_of_many_sentences_the_first_five_are_told():
    assert listing(["a."]) == "a."
    assert listing(list("abcde")) == "a\nb\nc\nd\ne"
    assert listing(list("abcdefg")) == "a\nb\nc\nd\ne\n... and 2 more"


def test_a_packed_matrix_without_its_scales_keeps_no_other_from_its_results(tmp_path):
    from bitsandbytes.functional import quantize_4bit

    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for block in (0, 1):
        codes, state = quantize_4bit(torch.randn(64, 64, generator=generator), quant_type="nf4")
        name = f"model.layers.{block}.mlp.up_proj.weight"
        tensors |= {name: codes} | {f"{name}.{part}": value for part, value in state.as_dict(packed=True).items()}
    del tensors["model.layers.1.mlp.up_proj.weight.absmax"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps({"model_type": "llama", "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2})
    )
    checkpoint = Checkpoint(tmp_path, dequantize=True)
    report = report_with_spectra("m", checkpoint, settings(dequantize=True), tmp_path / "run")
    assert [spectrum.fault is None for spectrum in report.matrices] == [True, False]


def test_a_missing_matrix_that_was_not_asked_for_is_no_fault(checkpoint_copy, tmp_path):
    names = dict.fromkeys(load_file(checkpoint_copy / "model.safetensors"), "model.safetensors")
    (checkpoint_copy / INDEX).write_text(json.dumps({"weight_map": names | {f"{ONE}.weight": "gone.safetensors"}}))
    edit(checkpoint_copy, lambda tensors: tensors.pop(f"{ONE}.weight"))
    checkpoint = Checkpoint(checkpoint_copy)
    report = report_with_spectra("m", checkpoint, QUICK, tmp_path)
    assert len(faults(report, checkpoint, settings())) == 1
    assert faults(report, checkpoint, settings(exclude=ONE)) == []
