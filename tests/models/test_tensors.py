"""Oracle: files that torch and safetensors write, read back by them."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from spectral_ft.errors import CheckpointError
from spectral_ft.models.tensors import INDEX, stored_tensors


@pytest.fixture
def sharded(tmp_path):
    save_file({"a": np.ones((2, 3), np.float32)}, tmp_path / "model-1.safetensors")
    save_file({"b": np.full((4,), 2.0, np.float32)}, tmp_path / "model-2.safetensors")
    names = {"a": "model-1.safetensors", "b": "model-2.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))
    return tmp_path


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_every_float_dtype_is_read_exactly(tmp_path, dtype):
    generator = torch.Generator().manual_seed(0)
    written = (torch.randn(7, 5, generator=generator, dtype=torch.float64) * 1e-3).to(dtype)
    save_torch_file({"first": torch.zeros(3), "w": written, "z": torch.ones(2)}, tmp_path / "model.safetensors")
    read = stored_tensors(tmp_path)["w"].read()
    assert read.shape == (7, 5)
    np.testing.assert_array_equal(read.astype(np.float64), written.to(torch.float64).numpy())


def test_bfloat16_keeps_signs_zeros_infinities_and_nan(tmp_path):
    written = torch.tensor([0.0, -0.0, 1e-40, -3.0, float("inf"), float("nan")], dtype=torch.bfloat16)
    save_torch_file({"w": written}, tmp_path / "model.safetensors")
    read = stored_tensors(tmp_path)["w"].read()
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, written.to(torch.float32).numpy())
    assert np.signbit(read).tolist()[:4] == [False, True, False, True]


def test_metadata_is_no_tensor(tmp_path):
    save_file({"w": np.ones(2, np.float32)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert list(stored_tensors(tmp_path)) == ["w"]


def test_an_index_leads_to_every_shard(sharded):
    tensors = stored_tensors(sharded)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"a": (2, 3), "b": (4,)}
    np.testing.assert_array_equal(tensors["b"].read(), np.full(4, 2.0))


def test_files_that_an_index_does_not_name_are_left_out(sharded):
    save_file({"a": np.zeros((9, 9), np.float32)}, sharded / "consolidated.safetensors")
    assert stored_tensors(sharded)["a"].shape == (2, 3)


def test_a_missing_shard_is_named(sharded):
    (sharded / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names model-2\.safetensors, which is missing"):
        stored_tensors(sharded)


@pytest.mark.parametrize("text", ["{", "{}", '{"weight_map": {"a"'])
def test_a_damaged_index_is_named(sharded, text):
    (sharded / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=INDEX):
        stored_tensors(sharded)


def test_one_name_in_two_files_is_refused(tmp_path):
    for name in ("x.safetensors", "y.safetensors"):
        save_file({"w": np.ones(2, np.float32)}, tmp_path / name)
    with pytest.raises(CheckpointError, match=r"w is in x\.safetensors and in y\.safetensors"):
        stored_tensors(tmp_path)


def test_a_folder_without_weights_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no \.safetensors file\.$"):
        stored_tensors(tmp_path)


def test_torch_files_are_refused_by_name(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(CheckpointError, match=r"It holds pytorch_model\.bin; convert it to safetensors first"):
        stored_tensors(tmp_path)


@pytest.mark.parametrize("written", [np.ones((2, 2), np.uint8), np.ones((2, 2), np.int64)])
def test_quantized_weights_are_refused(tmp_path, written):
    save_file({"w": written}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"w in model\.safetensors has dtype (U8|I64): only unquantized"):
        stored_tensors(tmp_path)["w"].read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1", "its header claims"),
        ((9).to_bytes(8, "little") + b"not  json", "is no safetensors file"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, message):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        stored_tensors(tmp_path)


@pytest.mark.parametrize("header", [b"[]", b'{"w":{}}'])
def test_a_header_of_another_form_is_refused(tmp_path, header):
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        stored_tensors(tmp_path)


def test_a_truncated_file_is_noticed_before_anything_is_read(tmp_path):
    save_file({"w": np.ones((2, 2), np.float32)}, tmp_path / "model.safetensors")
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-1])
    with pytest.raises(CheckpointError, match=rf"is truncated: {len(whole)} bytes are promised, {len(whole) - 1} are"):
        stored_tensors(tmp_path)


def test_a_file_cut_after_it_was_opened_is_noticed(tmp_path):
    save_file({"w": np.ones((2, 2), np.float32)}, tmp_path / "model.safetensors")
    tensor = stored_tensors(tmp_path)["w"]
    (tmp_path / "model.safetensors").write_bytes(tensor.file.read_bytes()[:-6])
    with pytest.raises(CheckpointError, match="is truncated: w needs 16 bytes, 10 are there"):
        tensor.read()
