"""Oracle: the linear modules of transformers' own models, random and a few numbers wide."""

import math

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from spectral_ft.bfloat16 import widened
from spectral_ft.errors import CheckpointError
from spectral_ft.models.block_matrices import BlockMatrices
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.models.loaded import loaded_matrices
from spectral_ft.models.places import block_matrices, is_block_matrix
from spectral_ft.models.tensors import Contents, safetensors_contents
from spectral_ft.spectral.decomposition import singular_values as decomposed
from tests.models.tiny_models import MODEL_TYPES, linear_weights, model_of, singular_values
from tests.oracles import gaussian


def saved(model, folder):
    model.save_pretrained(folder)
    return Checkpoint(folder)


def shapes_of(model_type):
    return {name: tuple(parameter.shape) for name, parameter in model_of(model_type).named_parameters()}


def listed(model_type):
    return [place.matrix for place in block_matrices(model_type, shapes_of(model_type))]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_matrices_of_a_file_are_the_linear_modules_of_the_blocks(model_type, tmp_path):
    model = model_of(model_type)
    checkpoint = saved(model, tmp_path)
    expected = linear_weights(model)
    assert checkpoint.model_type == model_type
    assert {matrix.name: matrix.shape for matrix in checkpoint.matrices} == {
        name: tuple(weight.shape) for name, weight in expected.items()
    }
    for matrix in checkpoint.matrices:
        np.testing.assert_allclose(
            decomposed(checkpoint.block_matrices.read(matrix)), singular_values(expected[matrix.name]), atol=1e-7
        )


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_matrices_of_a_loaded_model_are_its_linear_modules(model_type):
    model = model_of(model_type)
    expected = linear_weights(model)
    matrices = loaded_matrices(model)
    assert {matrix.name: matrix.shape for matrix in matrices.matrices} == {
        name: tuple(weight.shape) for name, weight in expected.items()
    }
    for matrix in matrices.matrices:
        np.testing.assert_allclose(decomposed(matrices.read(matrix)), singular_values(expected[matrix.name]), atol=1e-7)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_type_stands_for_one_module_path(model_type, tmp_path):
    checkpoint = saved(model_of(model_type), tmp_path)
    for matrices in (checkpoint.matrices, listed(model_type)):
        paths = {}
        for matrix in matrices:
            parts = [part for part in matrix.name.split(".") if not part.isdigit()]
            paths.setdefault(matrix.type, set()).add(".".join(parts))
        assert all(len(found) == 1 for found in paths.values()), paths


@pytest.mark.parametrize("model_type", [name for name in MODEL_TYPES if name != "qwen3_moe"])
def test_every_block_has_the_same_types(model_type, tmp_path):
    # qwen3_moe is left out: the model here has one dense block and one of experts.
    types = [
        sorted(matrix.type for matrix in saved(model_of(model_type), tmp_path).matrices if matrix.block == block)
        for block in (0, 1)
    ]
    assert types[0] == types[1]


SIDES = {
    "llama": ({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}, {"o_proj", "down_proj"}),
    "gemma2": ({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}, {"o_proj", "down_proj"}),
    "phi3": ({"qkv_proj", "gate_up_proj"}, {"o_proj", "down_proj"}),
    "gpt2": ({"c_attn", "c_fc"}, {"attn.c_proj", "mlp.c_proj"}),
    "falcon": ({"query_key_value", "dense_h_to_4h"}, {"dense", "dense_4h_to_h"}),
    "gpt_neox": ({"query_key_value", "dense_h_to_4h"}, {"dense", "dense_4h_to_h"}),
    "bert": ({"query", "key", "value", "intermediate.dense"}, {"attention.output.dense", "output.dense"}),
    "t5": (
        {
            *(f"encoder.{part}" for part in ("q", "k", "v", "wi")),
            "decoder.wi",
            *(f"decoder.{module}.{part}" for module in ("SelfAttention", "EncDecAttention") for part in "qkv"),
        },
        {"encoder.o", "encoder.wo", "decoder.wo", "decoder.SelfAttention.o", "decoder.EncDecAttention.o"},
    ),
}


@pytest.mark.parametrize("model_type", SIDES)
def test_types_and_sides(model_type):
    found = listed(model_type)
    assert ({m.type for m in found if m.side == "reads"}, {m.type for m in found if m.side == "writes"}) == SIDES[
        model_type
    ]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_writer_gives_the_width_of_the_residual_stream_and_a_reader_takes_it(model_type, tmp_path):
    matrices = saved(model_of(model_type), tmp_path).matrices
    assert {matrix.side for matrix in matrices} == {"reads", "writes"}
    for matrix in matrices:
        assert matrix.sides[0 if matrix.side == "writes" else 1] == 8  # the width of every model here


def test_the_position_bias_of_t5_is_no_block_matrix():
    shapes = shapes_of("t5")
    assert sum(name.endswith("relative_attention_bias.weight") for name in shapes) == 2
    assert not [matrix.name for matrix in listed("t5") if "bias" in matrix.name]


def test_the_stacks_of_t5_have_types_of_their_own():
    for matrix in listed("t5"):
        assert matrix.type.startswith(matrix.name.partition(".")[0] + ".")


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "falcon", "gpt_neox", "bert"])
def test_files_without_the_first_part_of_the_path_give_the_same_matrices(model_type):
    shapes = shapes_of(model_type)
    first = {"gpt2": "transformer", "falcon": "transformer", "gpt_neox": "gpt_neox", "bert": "bert"}
    prefix = first.get(model_type, "model") + "."
    without = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
    assert len(without) > 10
    assert [place.matrix for place in block_matrices(model_type, without)] == listed(model_type)


def test_a_gpt2_file_without_the_prefix_is_read_as_the_loaded_model(tmp_path):
    model = model_of("gpt2")
    expected = linear_weights(model)
    saved(model, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {name.removeprefix("transformer."): weight for name, weight in weights.items()}, tmp_path / "model.safetensors"
    )
    checkpoint = Checkpoint(tmp_path)
    assert {matrix.name for matrix in checkpoint.matrices} == set(expected)
    for matrix in checkpoint.matrices:
        weight = expected[matrix.name].numpy()
        assert matrix.shape == weight.shape
        np.testing.assert_array_equal(checkpoint.block_matrices.read(matrix), weight)


def test_blocks_are_ordered_as_numbers():
    shapes = {f"model.layers.{block}.mlp.up_proj.weight": (4, 2) for block in (10, 2, 0)}
    assert [place.matrix.block for place in block_matrices("llama", shapes)] == [0, 2, 10]


@pytest.mark.parametrize("shape", [(8,), (), (0, 4)])
def test_a_vector_or_nothing_is_no_matrix(shape):
    shapes = {"model.layers.0.mlp.up_proj.weight": (4, 2), "model.layers.1.mlp.up_proj.weight": shape}
    assert [place.matrix.block for place in block_matrices("llama", shapes)] == [0]


def test_an_unknown_model_type_is_warned_of_and_read_by_generic_rules(caplog):
    shapes = {
        "net.embed_in.weight": (32, 8),
        "net.layers.0.input_layernorm.weight": (8,),
        "net.layers.0.attention.query_key_value.weight": (24, 8),
        "net.layers.0.attention.query_key_value.bias": (24,),
        "net.layers.0.mlp.norm_table.weight": (8, 8),
        "net.layers.0.embed_positions.weight": (16, 8),
        "net.layers.0.rotary.inv_freq": (4, 4),
        "net.layers.1.attention.relative_attention_bias.weight": (32, 4),
        "net.layers.1.mlp.dense.weight": (8, 32),
        "embed_out.weight": (32, 8),
    }
    found = block_matrices("unheard_of", shapes)
    assert "model_type 'unheard_of' is not in the table of architectures (llama, " in caplog.text
    matrices = [place.matrix for place in found]
    assert [(matrix.name, matrix.type, matrix.block, matrix.shape) for matrix in matrices] == [
        ("net.layers.0.attention.query_key_value", "attention.query_key_value", 0, (24, 8)),
        ("net.layers.1.mlp.dense", "mlp.dense", 1, (8, 32)),
    ]
    assert {matrix.side for matrix in matrices} == {"unknown"}


@pytest.mark.parametrize("blocks", ["h", "layer", "layers", "block", "blocks"])
def test_generic_rules_know_the_usual_names_of_a_list_of_blocks(blocks):
    (place,) = block_matrices("unheard_of", {f"net.{blocks}.3.fc.weight": (4, 2), "net.path.3.fc.weight": (4, 2)})
    assert (place.matrix.name, place.matrix.block) == (f"net.{blocks}.3.fc", 3)


@pytest.fixture
def unheard_of(tmp_path):
    """Entries of a convolution and of stacked experts, and the matrices that are found among them."""
    weights = {
        "net.blocks.0.conv.weight": gaussian(6, 24, seed=1).reshape(6, 2, 3, 4),
        "net.blocks.0.conv.bias": np.zeros(6),
        "net.blocks.0.norm.weight": np.ones((6, 6)),
        "net.blocks.0.experts.up": gaussian(15, 4, seed=2).reshape(3, 5, 4),
        "net.blocks.0.experts.bias": np.zeros((3, 5)),
    }
    save_file(weights, tmp_path / "model.safetensors")
    return weights, BlockMatrices("by hand", "unheard_of", safetensors_contents(tmp_path))


def test_a_convolution_is_flattened_and_scaled_by_the_square_root_of_a_half(unheard_of):
    weights, matrices = unheard_of
    (conv,) = (matrix for matrix in matrices.matrices if matrix.type == "conv")
    assert conv.shape == (6, 24)
    expected = weights["net.blocks.0.conv.weight"].reshape(6, 24) * math.sqrt(0.5)
    np.testing.assert_allclose(matrices.read(conv), expected, rtol=1e-15)


def test_stacked_experts_are_taken_one_by_one(unheard_of):
    weights, matrices = unheard_of
    experts = [matrix for matrix in matrices.matrices if matrix.type == "experts.up"]
    assert [(matrix.name, matrix.shape) for matrix in experts] == [
        (f"net.blocks.0.experts.up.{number}", (5, 4)) for number in range(3)
    ]
    for number, matrix in enumerate(experts):
        np.testing.assert_array_equal(matrices.read(matrix), weights["net.blocks.0.experts.up"][number])
    assert len(matrices.matrices) == 4  # no norm and no bias beside the convolution


def test_a_convolution_in_bfloat16_is_widened_before_it_is_scaled():
    class Stored:
        shape, is_float, is_packed, dtype = (2, 2, 1), True, False, "BF16"

        def read(self, part=None):
            return np.array([0x3F80, 0x4000, 0xC000, 0], np.uint16).reshape(self.shape)  # 1, 2, -2, 0

    matrices = BlockMatrices("by hand", "unheard_of", Contents({"net.blocks.0.conv.weight": Stored()}, {}))
    found = widened(matrices.read(matrices.matrices[0]))
    np.testing.assert_allclose(found, np.array([[1, 2], [-2, 0]]) * math.sqrt(0.5), rtol=1e-6)


def test_a_known_model_type_gives_no_warning(caplog):
    block_matrices("llama", {"model.layers.0.mlp.up_proj.weight": (4, 2)})
    assert not caplog.records


@pytest.mark.parametrize("model_type", ["llama", "unheard_of"])
def test_tensors_without_a_block_matrix_are_refused(model_type):
    with pytest.raises(CheckpointError, match=rf"no block matrix found for model_type '{model_type}' among 2 tensors"):
        block_matrices(model_type, {"lm_head.weight": (4, 2), "model.norm.weight": (4,)})


@pytest.mark.parametrize("model_type", [*MODEL_TYPES, "unheard_of"])
def test_the_name_of_a_tensor_alone_tells_whether_it_is_a_block_matrix(model_type, tmp_path):
    known = "llama" if model_type == "unheard_of" else model_type
    shapes = {name: t.shape for name, t in saved(model_of(known), tmp_path).contents.tensors.items()}
    taken = {place.tensor for place in block_matrices(model_type, shapes)}
    # A vector has the name of a matrix in no model here.
    assert {name for name in shapes if is_block_matrix(model_type, name)} - {
        name for name, shape in shapes.items() if len(shape) < 2
    } == taken
