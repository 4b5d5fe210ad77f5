"""Oracle: tensors made here, some of which cannot be read."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from spectral_ft.errors import CheckpointError
from spectral_ft.models.block_matrices import BlockMatrices
from spectral_ft.models.tensors import INDEX, Contents, safetensors_contents
from tests.oracles import gaussian, matrix

NAMES = ("model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj")


@pytest.fixture
def folder(tmp_path):
    """Two matrices, a norm and an embedding, in a file each."""
    weights = {f"{name}.weight": gaussian(6, 4, seed=at) for at, name in enumerate(NAMES)}
    weights |= {"model.norm.weight": np.ones(4), "model.embed_tokens.weight": gaussian(9, 4, seed=2)}
    for name, weight in weights.items():
        save_file({name: weight}, tmp_path / f"{name}.safetensors")
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {name: f"{name}.safetensors" for name in weights}}))
    return tmp_path


def block_matrices(folder):
    return BlockMatrices("by hand", "llama", safetensors_contents(folder))


def test_a_matrix_is_read_by_its_name(folder):
    matrices = block_matrices(folder)
    assert [(m.name, m.shape) for m in matrices.matrices] == [(name, (6, 4)) for name in NAMES]
    for seed, m in enumerate(matrices.matrices):
        np.testing.assert_array_equal(matrices.read(m), gaussian(6, 4, seed=seed))
    assert matrices.faults == {}


def test_a_matrix_that_is_not_there_is_named(folder):
    with pytest.raises(CheckpointError, match=r"by hand has no matrix model\.layers\.7\.q_proj"):
        block_matrices(folder).read(matrix("7.q_proj"))


def test_a_missing_matrix_is_a_fault_and_the_others_are_read(folder):
    (folder / f"{NAMES[1]}.weight.safetensors").unlink()
    matrices = block_matrices(folder)
    assert len(matrices.faults) == 1
    assert matrices.faults[f"{NAMES[1]}.weight"].startswith(f"{NAMES[1]}.weight is missing")
    (found,) = matrices.matrices
    np.testing.assert_array_equal(matrices.read(found), gaussian(6, 4, seed=0))


@pytest.mark.parametrize("name", ["model.norm.weight", "model.embed_tokens.weight"])
def test_what_is_in_no_block_may_be_missing(folder, name):
    (folder / f"{name}.safetensors").unlink()
    matrices = block_matrices(folder)
    assert set(matrices.contents.faults) == {name}
    assert matrices.faults == {}
    assert len(matrices.matrices) == 2


@pytest.mark.parametrize("tensor", ["model.layers.0.mlp.experts.gate_up_proj", "model.layers.0.mlp.gate.weight"])
def test_missing_experts_are_a_fault_of_a_known_architecture(tensor):
    assert BlockMatrices("by hand", "mixtral", Contents({}, {tensor: "gone"})).faults == {tensor: "gone"}


def test_missing_stacked_experts_are_a_fault_of_an_unknown_architecture():
    name = "model.layers.0.mlp.experts.gate_up_proj"
    assert BlockMatrices("by hand", "unheard_of", Contents({}, {name: "gone"})).faults == {name: "gone"}


@pytest.mark.parametrize(
    ("dtype", "size"), [(np.float64, 8), (np.float32, 4), (np.float16, 2)], ids=["F64", "F32", "F16"]
)
def test_the_memory_of_a_matrix_is_that_of_its_numbers(tmp_path, dtype, size):
    save_file({f"{NAMES[0]}.weight": np.ones((6, 4), dtype)}, tmp_path / "model.safetensors")
    matrices = block_matrices(tmp_path)
    assert matrices.stored_bytes(matrices.matrices[0]) == 24 * size == matrices.read(matrices.matrices[0]).nbytes


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int64])
def test_codes_are_refused_with_the_name_of_their_tensor(tmp_path, dtype):
    save_file({f"{NAMES[0]}.weight": np.ones((6, 4), dtype)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"^{NAMES[0]}\.weight of by hand has numbers of type .*quantized"):
        _ = block_matrices(tmp_path).matrices


def test_codes_outside_the_blocks_disturb_nothing(tmp_path):
    weights = {f"{NAMES[0]}.weight": np.ones((6, 4)), "model.embed_tokens.weight": np.ones((9, 4), np.int8)}
    save_file(weights, tmp_path / "model.safetensors")
    assert [m.name for m in block_matrices(tmp_path).matrices] == [NAMES[0]]
