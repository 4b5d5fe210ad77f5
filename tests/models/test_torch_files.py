"""Oracle: safetensors files of the same tensors; and a file that a pickle would create if it could run."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from spectral_ft.errors import CheckpointError
from spectral_ft.models.tensors import safetensors_contents
from spectral_ft.models.torch_files import INDEX, SINGLE, torch_contents

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def tensors(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": (3, 4), "b": (5,), "c": (2, 3, 4)}
    return {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}


def same(folder, written, other):
    """What a folder holds is what a safetensors file of the same tensors holds."""
    other.mkdir(exist_ok=True)
    save_file(written, other / "model.safetensors")
    expected, found = safetensors_contents(other).tensors, torch_contents(folder)
    assert found.faults == {}
    assert set(found.tensors) == set(expected)
    for name, tensor in expected.items():
        assert found.tensors[name].shape == tensor.shape
        assert found.tensors[name].is_float
        read = found.tensors[name].read()
        assert read.dtype == tensor.read().dtype
        np.testing.assert_array_equal(read, tensor.read())
        np.testing.assert_array_equal(found.tensors[name].read(1), tensor.read(1))


def write_shards(folder, shards):
    for file, content in shards.items():
        torch.save(content, folder / file)
    names = {name: file for file, content in shards.items() for name in content}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": names}))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_single_file_holds_what_safetensors_holds(tmp_path, dtype):
    torch.save(tensors(dtype), tmp_path / SINGLE)
    same(tmp_path, tensors(dtype), tmp_path / "other")


@pytest.mark.parametrize("dtype", DTYPES)
def test_shards_hold_what_safetensors_holds(tmp_path, dtype):
    written = tensors(dtype)
    write_shards(tmp_path, {"one.bin": {"a": written["a"], "c": written["c"]}, "two.bin": {"b": written["b"]}})
    same(tmp_path, written, tmp_path / "other")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_format_before_torch_1_6_is_read(tmp_path, dtype):
    torch.save(tensors(dtype), tmp_path / SINGLE, _use_new_zipfile_serialization=False)
    assert (tmp_path / SINGLE).read_bytes()[:2] != b"PK"
    same(tmp_path, tensors(dtype), tmp_path / "other")


def test_views_and_parameters_are_read_as_they_look(tmp_path):
    whole = torch.arange(12.0).reshape(3, 4)
    written = {"turned": whole.T, "parameter": torch.nn.Parameter(torch.ones(2, 2)), "part": whole[1:]}
    torch.save(written, tmp_path / SINGLE)
    found = torch_contents(tmp_path).tensors
    assert set(found) == set(written)
    for name, tensor in written.items():
        np.testing.assert_array_equal(found[name].read(), tensor.detach().numpy())


def test_tied_tensors_are_there_once(tmp_path):
    shared = torch.ones(3, 3)
    torch.save({"lm_head": shared, "embed": shared, "z": torch.ones(3, 3)}, tmp_path / SINGLE)
    contents = torch_contents(tmp_path)
    assert (set(contents.tensors), contents.faults) == ({"embed", "z"}, {})


def test_tied_tensors_of_an_index_are_no_fault(tmp_path):
    shared = torch.ones(3, 3)
    write_shards(tmp_path, {"one.bin": {"lm_head": shared, "embed": shared}, "two.bin": {"z": torch.ones(1)}})
    contents = torch_contents(tmp_path)
    assert (set(contents.tensors), contents.faults) == ({"embed", "z"}, {})


def test_empty_tensors_are_not_taken_for_tied(tmp_path):
    torch.save({"a": torch.empty(0), "b": torch.empty(0)}, tmp_path / SINGLE)
    assert set(torch_contents(tmp_path).tensors) == {"a", "b"}


class Malicious:
    """A value whose pickle would make a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("modern", [True, False])
def test_a_pickle_that_runs_code_is_refused_and_not_run(tmp_path, modern):
    made = tmp_path / "made"
    torch.save({"w": torch.ones(2), "x": Malicious(made)}, tmp_path / SINGLE, _use_new_zipfile_serialization=modern)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin holds more than weights, and is not opened"):
        torch_contents(tmp_path)
    assert not made.exists()
    torch.load(tmp_path / SINGLE, weights_only=False)
    assert made.exists()  # it would have run


def test_a_bare_pickle_is_refused_and_not_run(tmp_path):
    made = tmp_path / "made"
    (tmp_path / SINGLE).write_bytes(pickle.dumps(Malicious(made)))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        torch_contents(tmp_path)
    assert not made.exists()


@pytest.mark.parametrize("share", [0.01, 0.3, 0.6, 0.95, 0.999])
def test_a_truncated_file_is_named(tmp_path, share):
    torch.save({"w": torch.ones(40, 40)}, tmp_path / SINGLE)
    whole = (tmp_path / SINGLE).read_bytes()
    (tmp_path / SINGLE).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is damaged: .*Download it again"):
        torch_contents(tmp_path)


def test_an_empty_file_is_named(tmp_path):
    (tmp_path / SINGLE).touch()
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is damaged"):
        torch_contents(tmp_path)


def test_a_truncated_file_of_the_old_format_is_named(tmp_path):
    torch.save({"w": torch.ones(40, 40)}, tmp_path / SINGLE, _use_new_zipfile_serialization=False)
    whole = (tmp_path / SINGLE).read_bytes()
    for length in range(20, len(whole), 40):
        (tmp_path / SINGLE).write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
            torch_contents(tmp_path)


def test_a_file_of_the_old_format_without_its_end_is_named(tmp_path):
    torch.save({"w": torch.ones(40, 40)}, tmp_path / SINGLE, _use_new_zipfile_serialization=False)
    (tmp_path / SINGLE).write_bytes((tmp_path / SINGLE).read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is damaged: .*Download it again"):
        torch_contents(tmp_path)


@pytest.mark.parametrize("content", [[torch.ones(2)], {"w": torch.ones(2), "step": 3}, {"state": {"w": torch.ones(2)}}])
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / SINGLE)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is no state dict: it must map names to tensors"):
        torch_contents(tmp_path)


def test_a_missing_shard_is_a_fault_of_its_tensors_alone(tmp_path):
    write_shards(tmp_path, {"one.bin": {"a": torch.ones(2)}, "two.bin": {"b": torch.ones(3)}})
    (tmp_path / "two.bin").unlink()
    contents = torch_contents(tmp_path)
    assert set(contents.tensors) == {"a"}
    assert set(contents.faults) == {"b"}
    assert "b is missing" in contents.faults["b"] and "two.bin, which is not there" in contents.faults["b"]


def test_one_name_in_two_shards_is_a_fault_of_it_alone(tmp_path):
    write_shards(tmp_path, {"one.bin": {"a": torch.ones(2), "b": torch.ones(1)}, "two.bin": {"a": torch.ones(2)}})
    contents = torch_contents(tmp_path)
    assert set(contents.tensors) == {"b"}
    assert set(contents.faults) == {"a"}
    assert "a is in two.bin and in another file" in contents.faults["a"]


def test_all_shards_missing_is_refused(tmp_path):
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "one.bin"}}))
    with pytest.raises(CheckpointError, match=r"names one\.bin, which is missing, as all its files are"):
        torch_contents(tmp_path)


def test_a_damaged_index_is_named(tmp_path):
    (tmp_path / INDEX).write_text("{")
    with pytest.raises(CheckpointError, match=rf"{INDEX} is damaged"):
        torch_contents(tmp_path)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.float8_e4m3fn])
def test_codes_are_no_floats(tmp_path, dtype):
    torch.save({"w": torch.ones(2, 2).to(dtype)}, tmp_path / SINGLE)
    assert not torch_contents(tmp_path).tensors["w"].is_float
