"""Oracle: files that torch and safetensors write, read back by them."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch_file

from spectral_ft.bfloat16 import widened
from spectral_ft.errors import CheckpointError
from spectral_ft.models.tensors import INDEX, safetensors_contents

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def tensors_of(folder):
    """The tensors of a folder in which nothing is wrong."""
    contents = safetensors_contents(folder)
    assert contents.faults == {}
    return contents.tensors


def random(dtype, *shape):
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(*shape, generator=generator, dtype=torch.float64) * 1e-3).to(dtype)


def write_index(folder, weight_map):
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def write_raw(path, entries, data):
    """A safetensors file whose header has these pairs, some perhaps twice."""
    header = "{" + ",".join(f"{json.dumps(name)}:{json.dumps(entry)}" for name, entry in entries) + "}"
    path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + data)


@pytest.fixture
def sharded(tmp_path):
    save_file({"a": np.ones((2, 3), np.float32)}, tmp_path / "model-1.safetensors")
    save_file({"b": np.full((4,), 2.0, np.float32)}, tmp_path / "model-2.safetensors")
    write_index(tmp_path, {"a": "model-1.safetensors", "b": "model-2.safetensors"})
    return tmp_path


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_float_dtype_is_read_exactly(tmp_path, dtype, shards):
    written = {"first": random(dtype, 3), "w": random(dtype, 7, 5), "z": random(dtype, 2, 2, 2)}
    if shards == 1:
        save_torch_file(written, tmp_path / "model.safetensors")
    else:
        for name, tensor in written.items():
            save_torch_file({name: tensor}, tmp_path / f"{name}.safetensors")
        write_index(tmp_path, {name: f"{name}.safetensors" for name in written})
    tensors = tensors_of(tmp_path)
    assert set(tensors) == set(written)
    for name, tensor in written.items():
        assert tensors[name].shape == tuple(tensor.shape)
        assert tensors[name].is_float
        read = tensors[name].read()
        assert read.itemsize == tensor.element_size()
        np.testing.assert_array_equal(widened(read).astype(np.float64), tensor.to(torch.float64).numpy())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_part_is_read_alone(tmp_path, dtype):
    written = random(dtype, 4, 3, 5)
    save_torch_file({"before": torch.zeros(3), "w": written}, tmp_path / "model.safetensors")
    tensor = tensors_of(tmp_path)["w"]
    for part in range(4):
        read = tensor.read(part)
        assert read.shape == (3, 5)
        np.testing.assert_array_equal(widened(read).astype(np.float64), written[part].to(torch.float64).numpy())


def test_a_part_does_not_need_the_rest_of_the_file(tmp_path):
    save_file({"w": np.arange(12, dtype=np.float32).reshape(3, 4)}, tmp_path / "model.safetensors")
    tensor = tensors_of(tmp_path)["w"]
    tensor.file.write_bytes(tensor.file.read_bytes()[:-16])
    np.testing.assert_array_equal(tensor.read(1), [4, 5, 6, 7])
    with pytest.raises(CheckpointError, match="is truncated: w needs 16 bytes, 0 are there"):
        tensor.read(2)


def test_bfloat16_keeps_signs_zeros_infinities_and_nan(tmp_path):
    written = torch.tensor([0.0, -0.0, 1e-40, -3.0, float("inf"), float("nan")], dtype=torch.bfloat16)
    save_torch_file({"w": written}, tmp_path / "model.safetensors")
    bits = tensors_of(tmp_path)["w"].read()
    assert bits.dtype == np.uint16
    read = widened(bits)
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, written.to(torch.float32).numpy())
    assert np.signbit(read).tolist()[:4] == [False, True, False, True]


def test_metadata_is_no_tensor(tmp_path):
    save_file({"w": np.ones(2, np.float32)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert list(tensors_of(tmp_path)) == ["w"]


def test_an_index_leads_to_every_shard(sharded):
    tensors = tensors_of(sharded)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"a": (2, 3), "b": (4,)}
    np.testing.assert_array_equal(tensors["b"].read(), np.full(4, 2.0))


def test_files_without_an_index_are_taken_together(sharded):
    (sharded / INDEX).unlink()
    assert set(tensors_of(sharded)) == {"a", "b"}


def test_files_that_an_index_does_not_name_are_left_out(sharded):
    save_file({"a": np.zeros((9, 9), np.float32)}, sharded / "consolidated.safetensors")
    assert tensors_of(sharded)["a"].shape == (2, 3)


def test_a_missing_shard_is_a_fault_of_its_tensors_alone(sharded):
    (sharded / "model-2.safetensors").unlink()
    contents = safetensors_contents(sharded)
    np.testing.assert_array_equal(contents.tensors["a"].read(), np.ones((2, 3)))
    assert set(contents.tensors) == {"a"}
    assert set(contents.faults) == {"b"}
    assert contents.faults["b"].startswith("b is missing: ")
    assert "model-2.safetensors, which is not there" in contents.faults["b"]


def test_a_tensor_that_its_file_lacks_is_a_fault(sharded):
    write_index(sharded, {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-2.safetensors"})
    contents = safetensors_contents(sharded)
    assert set(contents.tensors) == {"a", "b"}
    assert set(contents.faults) == {"c"}
    assert contents.faults["c"].startswith("c is missing: ")
    assert "model-2.safetensors, which has no such tensor" in contents.faults["c"]


def test_a_checkpoint_of_which_all_shards_are_missing_is_refused(sharded):
    for name in ("model-1.safetensors", "model-2.safetensors"):
        (sharded / name).unlink()
    with pytest.raises(CheckpointError, match=r"names model-1\.safetensors, which is missing, as all its files are"):
        safetensors_contents(sharded)


@pytest.mark.parametrize(
    "text", ["{", "{}", "[]", '{"weight_map": {"a"', '{"weight_map": null}', '{"weight_map": [1]}']
)
def test_a_damaged_index_is_named(sharded, text):
    (sharded / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=rf"{INDEX} is damaged"):
        safetensors_contents(sharded)


@pytest.mark.parametrize("value", [1, None, {}])
def test_an_index_that_maps_to_something_else_than_names_is_damaged(sharded, value):
    write_index(sharded, {"a": value, "b": "model-2.safetensors"})
    with pytest.raises(CheckpointError, match=INDEX):
        safetensors_contents(sharded)


def test_one_name_in_two_files_is_a_fault_of_it_alone(tmp_path):
    for name, own in (("x", "only x"), ("y", "only y")):
        save_file({"w": np.ones(2, np.float32), own: np.ones(3, np.float32)}, tmp_path / f"{name}.safetensors")
    contents = safetensors_contents(tmp_path)
    assert set(contents.tensors) == {"only x", "only y"}
    assert contents.faults == {"w": "w is in x.safetensors and in y.safetensors; remove one of them."}


def test_one_name_in_two_shards_of_an_index_is_a_fault(sharded):
    for number in (1, 2):
        weights = {"a": np.ones((2, 3), np.float32)} | ({"b": np.ones(4, np.float32)} if number == 2 else {})
        save_file(weights, sharded / f"model-{number}.safetensors")
    contents = safetensors_contents(sharded)
    assert set(contents.tensors) == {"b"}
    assert contents.faults == {"a": "a is in model-1.safetensors and in model-2.safetensors; remove one of them."}


def test_one_name_twice_in_a_header_is_a_fault_of_it_alone(tmp_path):
    entries = [
        ("w", {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}),
        ("v", {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}),
        ("w", {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]}),
    ]
    write_raw(tmp_path / "model.safetensors", entries, np.array([1, 2, 3, 4], np.float32).tobytes())
    contents = safetensors_contents(tmp_path)
    assert set(contents.tensors) == {"v"}
    np.testing.assert_array_equal(contents.tensors["v"].read(), [2, 3])
    assert set(contents.faults) == {"w"}
    assert contents.faults["w"].startswith("w is ")


def test_one_name_twice_in_a_header_is_said_to_be_there_twice(tmp_path):
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    write_raw(tmp_path / "model.safetensors", [("w", entry), ("w", entry)], bytes(4))
    assert "w is 2 times in model.safetensors" in safetensors_contents(tmp_path).faults["w"]


@pytest.mark.parametrize("written", [np.ones((2, 2), np.uint8), np.ones((2, 2), np.int8), np.ones((2, 2), np.int64)])
def test_integers_are_no_floats(tmp_path, written):
    save_file({"w": written}, tmp_path / "model.safetensors")
    assert not tensors_of(tmp_path)["w"].is_float


def test_bytes_are_read_as_they_are(tmp_path):
    written = {"u": np.arange(6, dtype=np.uint8).reshape(2, 3), "i": np.arange(-3, 3, dtype=np.int8)}
    save_file(written, tmp_path / "model.safetensors")
    for name, tensor in tensors_of(tmp_path).items():
        np.testing.assert_array_equal(tensor.read(), written[name])


def test_numbers_that_numpy_does_not_know_are_named(tmp_path):
    save_torch_file({"w": torch.ones(2, 2).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    tensor = tensors_of(tmp_path)["w"]
    assert not tensor.is_float
    with pytest.raises(CheckpointError, match=r"w in model\.safetensors has numbers of type F8_E4M3"):
        tensor.read()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no safetensors file"),
        (b"version https://git-lfs.github.com/spec/v1", "its header claims"),
        ((9).to_bytes(8, "little") + b"not  json", "is no safetensors file"),
        ((9).to_bytes(8, "little") + b"\xff" * 9, "is no safetensors file"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path, content, message):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        safetensors_contents(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        b"[]",
        b"7",
        b'{"w":{}}',
        b'{"w":[]}',
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0]}}',
        b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,"4"]}}',
        b'{"w":{"dtype":"F32","shape":4,"data_offsets":[0,4]}}',
    ],
)
def test_a_header_of_another_form_is_refused(tmp_path, header):
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(CheckpointError, match="is no safetensors file"):
        safetensors_contents(tmp_path)


def test_a_truncated_file_is_a_fault_of_the_tensors_beyond_its_end_alone(tmp_path):
    save_file({name: np.full((2, 2), 3, np.float32) for name in ("a", "w")}, tmp_path / "model.safetensors")
    last = max(tensors_of(tmp_path).values(), key=lambda tensor: tensor.end)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "model.safetensors").read_bytes()[:-6])
    tensors = tensors_of(tmp_path)
    with pytest.raises(CheckpointError, match=rf"is truncated: {last.name} needs 16 bytes, 10 are there"):
        tensors[last.name].read()
    other = "a" if last.name == "w" else "w"
    np.testing.assert_array_equal(tensors[other].read(), np.full((2, 2), 3))
