"""Oracle: what bitsandbytes itself dequantizes, on a small model that it packed."""

import json

import numpy as np
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from spectral_ft.errors import CheckpointError
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.models.loaded import loaded_matrices
from spectral_ft.models.packed import PACKINGS, rounded
from spectral_ft.models.tensors import INDEX
from tests.models.tiny_models import model_of
from tests.oracles import gaussian

SIZES = {"hidden_size": 64, "intermediate_size": 128, "head_dim": 16}
CONFIGS = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "nf4-double": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "int8": {"load_in_8bit": True},
}
NF4_GAP = 0.152
"""Half of the widest gap between two of the 16 levels of NF4, -1 and -0.6962, as a share of the block's largest."""


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    model_of("llama", **SIZES).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=PACKINGS)
def packed(plain, tmp_path_factory, request):
    """A packing, a model in it, and the folder it was saved to."""
    folder = tmp_path_factory.mktemp(request.param)
    config = BitsAndBytesConfig(**CONFIGS[request.param])
    model = AutoModelForCausalLM.from_pretrained(plain, quantization_config=config, device_map="cpu")
    model.save_pretrained(folder)
    return request.param, model, folder


def dequantized(model, name):
    """What bitsandbytes multiplies with."""
    weight = model.get_submodule(name).weight
    if getattr(weight, "quant_state", None) is not None:
        return dequantize_4bit(weight.data, weight.quant_state).float().numpy()
    return (weight.data.float() * weight.SCB.float()[:, None] / 127).numpy()


def places(packing, model, folder, dequantize):
    yield Checkpoint(folder, dequantize=dequantize).block_matrices
    yield loaded_matrices(model, dequantize=dequantize)


def test_packed_weights_are_refused_and_the_option_is_named(packed):
    for matrices in places(*packed, dequantize=False):
        with pytest.raises(CheckpointError, match=r"^model\.layers\.0\.mlp\.down_proj\.weight of ") as refused:
            _ = matrices.matrices
        assert "spectrum.dequantize=true" in str(refused.value)
        assert "it is quantized" in str(refused.value)


def test_packed_weights_are_read_as_what_they_stand_for(packed, plain):
    shapes = {matrix.name: matrix.shape for matrix in Checkpoint(plain).matrices}
    for matrices in places(*packed, dequantize=True):
        assert {matrix.name: matrix.shape for matrix in matrices.matrices} == shapes
        for matrix in matrices.matrices:
            found = matrices.read(matrix)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, dequantized(packed[1], matrix.name), rtol=1e-6, atol=1e-9)
            assert matrices.stored_bytes(matrix) == found.nbytes


def test_rounding_gives_what_the_packed_model_stands_for(packed, plain):
    packing, model, _ = packed
    matrices = Checkpoint(plain).block_matrices
    for matrix in matrices.matrices:
        found = rounded(matrices.read(matrix), packing)
        expected = dequantized(model, matrix.name)
        # A step of int8 is 0.8 percent of a row's largest. bitsandbytes goes through float16 first, so that
        # scales differ in the fourth digit, and an entry halfway may fall on the other side.
        apart = np.abs(found - expected) > (1e-3 if packing == "int8" else 1e-6) * np.abs(expected).max()
        assert apart.mean() < (0.05 if packing == "int8" else 1e-9)


def test_what_is_not_packed_is_read_as_before(packed, plain):
    _, _, folder = packed
    contents = Checkpoint(folder, dequantize=True).block_matrices.contents.tensors
    whole = Checkpoint(plain).contents.tensors
    for name in ("model.norm.weight", "model.embed_tokens.weight", "lm_head.weight"):
        np.testing.assert_array_equal(contents[name].read(), whole[name].read())


def test_a_packed_checkpoint_in_torchs_format_is_the_same(packed, tmp_path):
    _, _, folder = packed
    torch.save(load_file(folder / "model.safetensors"), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"spectrum\.dequantize=true"):
        _ = Checkpoint(tmp_path).matrices
    one, other = (Checkpoint(path, dequantize=True).block_matrices for path in (folder, tmp_path))
    assert one.matrices == other.matrices
    for matrix in one.matrices:
        np.testing.assert_array_equal(one.read(matrix), other.read(matrix))


def test_eight_bit_rows_are_their_codes_times_their_scale(tmp_path):
    codes = np.array([[127, -127, 0], [64, 1, -2]], np.int8)
    name = "model.layers.0.mlp.up_proj"
    tensors = {f"{name}.weight": torch.from_numpy(codes), f"{name}.SCB": torch.tensor([127.0, 254.0])}
    save_file(tensors | {f"{name}.weight_format": torch.tensor(0, dtype=torch.uint8)}, tmp_path / "model.safetensors")
    sizes = {"hidden_size": 3, "intermediate_size": 2, "num_hidden_layers": 1, "num_attention_heads": 1}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"} | sizes))
    matrices = Checkpoint(tmp_path, dequantize=True).block_matrices
    np.testing.assert_allclose(matrices.read(matrices.matrices[0]), [[127, -127, 0], [128, 2, -4]], rtol=1e-6)


def in_two_shards(folder, target, second):
    """A copy of a checkpoint in two files; `second` chooses the names of the second."""
    tensors = load_file(folder / "model.safetensors")
    files = {name: "two.safetensors" if second(name) else "one.safetensors" for name in tensors}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in files if files[name] == file}, target / file)
    (target / INDEX).write_text(json.dumps({"weight_map": files}))
    (target / "config.json").write_bytes((folder / "config.json").read_bytes())


ONE = "model.layers.1.mlp.up_proj"


def test_a_packed_tensor_whose_parts_lie_in_two_files_is_read(packed, tmp_path):
    _, model, folder = packed
    in_two_shards(folder, tmp_path, lambda name: name == f"{ONE}.weight")
    matrices = Checkpoint(tmp_path, dequantize=True).block_matrices
    (matrix,) = (matrix for matrix in matrices.matrices if matrix.name == ONE)
    np.testing.assert_allclose(matrices.read(matrix), dequantized(model, ONE), rtol=1e-6, atol=1e-9)


def test_missing_codes_leave_the_other_matrices_readable(packed, tmp_path):
    _, _, folder = packed
    in_two_shards(folder, tmp_path, lambda name: name == f"{ONE}.weight")
    (tmp_path / "two.safetensors").unlink()
    matrices = Checkpoint(tmp_path, dequantize=True).block_matrices
    assert len(matrices.faults) == 1 and matrices.faults[ONE].startswith(f"{ONE}.weight is missing")
    assert ONE not in {matrix.name for matrix in matrices.matrices}
    assert len(matrices.matrices) == 13


def test_missing_scales_are_a_fault_of_their_matrix(packed, tmp_path):
    _, _, folder = packed
    in_two_shards(folder, tmp_path, lambda name: name in {f"{ONE}.weight.absmax", f"{ONE}.SCB"})
    (tmp_path / "two.safetensors").unlink()
    matrices = Checkpoint(tmp_path, dequantize=True).block_matrices
    assert [fault for fault in matrices.faults.values() if ONE in fault]
    assert len(matrices.matrices) >= 13


def test_a_damaged_description_is_a_fault_of_its_matrix_alone(packed, tmp_path):
    kind, _, folder = packed
    if kind == "int8":
        pytest.skip("8-bit weights have no description but their scales")
    tensors = load_file(folder / "model.safetensors")
    (state,) = (name for name in tensors if name.startswith(f"{ONE}.weight.quant_state"))
    tensors[state] = torch.tensor(list(b"{not json"), dtype=torch.uint8)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    matrices = Checkpoint(tmp_path, dequantize=True).block_matrices
    assert list(matrices.faults) == [ONE]
    assert "cannot be dequantized" in matrices.faults[ONE]
    assert len(matrices.matrices) == 13


@pytest.mark.parametrize("packing", ["nf4", "nf4-double"])
def test_nf4_moves_an_entry_by_less_than_half_the_widest_gap_of_its_block(packing):
    weights = gaussian(32, 128, seed=3).astype(np.float32)
    found = rounded(weights, packing)
    assert (found.shape, found.dtype) == (weights.shape, np.float32)
    largest = np.repeat(np.abs(weights.reshape(-1, 64)).max(axis=1), 64).reshape(weights.shape)
    slack = {"nf4": 1e-6, "nf4-double": 0.05}[packing]  # the scales themselves are rounded to 8 bits
    assert (np.abs(found - weights) <= (NF4_GAP + slack) * largest).all()
    assert np.abs(found - weights).max() > 0.05


def test_nf4_has_sixteen_values_a_block():
    found = rounded(gaussian(16, 256, seed=4).astype(np.float32), "nf4")
    counts = [len(np.unique(block)) for block in found.reshape(-1, 64)]
    assert 8 < max(counts) <= 16


def test_int8_moves_an_entry_by_half_a_step_of_its_row_at_most():
    weights = gaussian(20, 30, seed=5).astype(np.float32) * np.geomspace(1e-3, 1e3, 20, dtype=np.float32)[:, None]
    found = rounded(weights, "int8")
    step = np.abs(weights).max(axis=1, keepdims=True) / 127
    assert (np.abs(found - weights) <= step / 2 * (1 + 1e-4)).all()
    assert (np.abs(found - weights) > step / 4).any()


@pytest.mark.parametrize("packing", ["nf4", "int8"])
def test_rounding_twice_is_rounding_once(packing):
    once = rounded(gaussian(16, 64, seed=6).astype(np.float32), packing)
    np.testing.assert_allclose(rounded(once, packing), once, rtol=1e-6)


@pytest.mark.parametrize("packing", PACKINGS)
def test_rounding_leaves_the_weights_alone(packing):
    weights = gaussian(8, 64, seed=7).astype(np.float32)
    before = weights.copy()
    rounded(weights, packing)
    np.testing.assert_array_equal(weights, before)


@pytest.mark.parametrize("packing", PACKINGS)
def test_bfloat16_is_rounded_as_its_values(packing):
    values = torch.from_numpy(gaussian(8, 64, seed=8)).to(torch.bfloat16)
    bits, wide = values.view(torch.uint16).numpy(), values.float().numpy()
    np.testing.assert_array_equal(rounded(bits, packing), rounded(wide, packing))


@pytest.mark.parametrize("packing", PACKINGS)
def test_zeros_stay_zeros(packing):
    weights = np.zeros((4, 64), np.float32)
    weights[0, 0] = 1
    found = rounded(weights, packing)
    assert found[0, 0] == pytest.approx(1, rel=0.01)
    assert not found[1:].any()
