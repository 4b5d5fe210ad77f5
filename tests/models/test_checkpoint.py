"""Oracle: a small GPT-2 whose weights are compared with what is read from its files."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from spectral_ft.errors import CheckpointError
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.models.tensors import INDEX
from tests.oracles import gaussian, matrix

STORED = {
    "h.0.attn.c_attn": (8, 24),
    "h.0.attn.c_proj": (8, 8),
    "h.0.mlp.c_fc": (8, 32),
    "h.0.mlp.c_proj": (32, 8),
}
"""As GPT-2's Conv1D stores them: (d_in, d_out)."""
CONFIG = {"model_type": "gpt2", "n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 16}


def write_gpt2(folder, *, prefix):
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    weights = {f"{prefix}wte.weight": gaussian(16, 8, seed=0)}
    weights |= {f"{prefix}{name}.weight": gaussian(*shape, seed=1) for name, shape in STORED.items()}
    weights |= {f"{prefix}{name}.bias": np.zeros(shape[1]) for name, shape in STORED.items()}
    save_file({name: weight.astype(np.float32) for name, weight in weights.items()}, folder / "model.safetensors")
    return Checkpoint(folder)


@pytest.fixture(params=["transformer.", ""], ids=["with prefix", "without prefix"])
def gpt2(tmp_path, request):
    return write_gpt2(tmp_path, prefix=request.param)


def test_conv1d_shapes_are_turned_to_d_out_first(gpt2):
    assert {m.name.removeprefix("transformer."): m.shape for m in gpt2.matrices} == {
        name: (d_out, d_in) for name, (d_in, d_out) in STORED.items()
    }


def test_matrices_carry_the_module_path_of_the_loaded_model(gpt2):
    assert gpt2.matrices[0].name == "transformer.h.0.attn.c_attn"


def test_a_conv1d_is_read_with_its_outputs_first(gpt2):
    stored = load_file(gpt2.folder / "model.safetensors")
    for wanted in gpt2.matrices:
        (expected,) = (w for name, w in stored.items() if name.endswith(f"{wanted.name.partition('.')[2]}.weight"))
        np.testing.assert_array_equal(gpt2.block_matrices.read(wanted), expected.T)


def test_a_matrix_of_another_checkpoint_is_refused(gpt2):
    with pytest.raises(CheckpointError, match=r"has no matrix model\.layers\.7\.q_proj"):
        gpt2.block_matrices.read(matrix("7.q_proj"))


def test_the_fingerprint_is_of_the_weights_alone(tmp_path):
    one, other = write_gpt2(tmp_path / "one", prefix=""), write_gpt2(tmp_path / "other", prefix="")
    (other.folder / "README.md").write_text("a copy")
    assert one.fingerprint == other.fingerprint
    weights = load_file(other.folder / "model.safetensors")
    weights["wte.weight"][0, 0] += 1
    save_file(weights, other.folder / "model.safetensors")
    assert Checkpoint(other.folder).fingerprint != one.fingerprint


def test_what_is_dequantized_has_a_fingerprint_of_its_own(gpt2):
    assert Checkpoint(gpt2.folder, dequantize=True).fingerprint != gpt2.fingerprint


def in_torchs_format(checkpoint, target):
    target.mkdir()
    weights = load_file(checkpoint.folder / "model.safetensors")
    torch.save({name: torch.from_numpy(weight) for name, weight in weights.items()}, target / "pytorch_model.bin")
    (target / "config.json").write_bytes((checkpoint.folder / "config.json").read_bytes())
    return Checkpoint(target)


def test_torchs_file_is_read_where_there_are_no_safetensors(gpt2, tmp_path):
    other = in_torchs_format(gpt2, tmp_path / "other")
    assert other.matrices == gpt2.matrices
    for wanted in gpt2.matrices:
        np.testing.assert_array_equal(other.block_matrices.read(wanted), gpt2.block_matrices.read(wanted))
    other.check_whole()


def test_safetensors_are_read_where_torchs_file_lies_beside_them(gpt2):
    (gpt2.folder / "pytorch_model.bin").write_bytes(b"damaged")
    assert len(Checkpoint(gpt2.folder).contents.tensors) == 9


def test_the_fingerprint_of_torchs_file_changes_with_it(gpt2, tmp_path):
    other = in_torchs_format(gpt2, tmp_path / "other")
    before = other.fingerprint
    weights = torch.load(other.folder / "pytorch_model.bin")
    next(iter(weights.values()))[0] += 1
    torch.save(weights, other.folder / "pytorch_model.bin")
    assert Checkpoint(other.folder).fingerprint != before


def test_a_folder_without_weights_says_what_is_there(gpt2):
    (gpt2.folder / "model.safetensors").unlink()
    with pytest.raises(
        CheckpointError, match=r"no \.safetensors file and no pytorch_model\.bin; it holds .*config\.json"
    ):
        _ = Checkpoint(gpt2.folder).contents


def test_a_whole_checkpoint_passes(gpt2):
    gpt2.check_whole()


def test_a_truncated_checkpoint_is_noticed_before_anything_is_read(gpt2):
    path = gpt2.folder / "model.safetensors"
    whole = path.read_bytes()
    last = max(gpt2.contents.tensors.values(), key=lambda tensor: tensor.end)
    path.write_bytes(whole[:-5])
    with pytest.raises(
        CheckpointError,
        match=rf"is truncated: {last.name} ends at byte {len(whole)}, {len(whole) - 5} are there\. Download it again",
    ):
        Checkpoint(gpt2.folder).check_whole()


def test_a_missing_tensor_is_noticed_before_anything_is_read(gpt2):
    names = dict.fromkeys(gpt2.contents.tensors, "model.safetensors") | {"lm_head.weight": "gone.safetensors"}
    (gpt2.folder / INDEX).write_text(json.dumps({"weight_map": names}))
    with pytest.raises(CheckpointError, match=r"^lm_head\.weight is missing: .*in gone\.safetensors"):
        Checkpoint(gpt2.folder).check_whole()


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"model\.path=.*nowhere does not exist or is no folder"):
        Checkpoint(tmp_path / "nowhere")


def test_a_folder_without_a_configuration_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"holds no checkpoint: config\.json is missing"):
        Checkpoint(tmp_path)


def test_a_damaged_configuration_is_named(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": ')
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        _ = Checkpoint(tmp_path).model_type


def test_a_configuration_without_a_model_type_is_unknown(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert Checkpoint(tmp_path).model_type == "unknown"
