"""Oracle: the linear modules of transformers' own models, built without memory."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from spectral_ft.errors import CheckpointError
from spectral_ft.models.architectures import ARCHITECTURES, block_matrices

LLAMA_SIZES = {"hidden_size": 8, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = {"num_key_value_heads": 2, "head_dim": 2}
SIZES = {
    "gpt2": {"n_embd": 8, "n_layer": 2, "n_head": 2},
    "falcon": {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 4},
}


def model_of(model_type):
    config = AutoConfig.for_model(model_type, vocab_size=32, **SIZES.get(model_type, LLAMA_SIZES | GROUPED))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def stored_shapes(model):
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def linear_modules(model):
    """Module path to (d_out, d_in), the head left out."""
    return {
        name: (module.nf, module.nx) if isinstance(module, Conv1D) else (module.out_features, module.in_features)
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and name != "lm_head"
    }


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_the_matrices_are_the_linear_modules_of_the_blocks(model_type):
    model = model_of(model_type)
    found = block_matrices(model_type, stored_shapes(model))
    assert {matrix.name: matrix.shape for matrix in found} == linear_modules(model)


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_block_has_each_type_once(model_type):
    found = block_matrices(model_type, stored_shapes(model_of(model_type)))
    types = [[matrix.type for matrix in found if matrix.block == block] for block in (0, 1)]
    assert len(set(types[0])) == len(types[0])
    assert types[0] == types[1]


@pytest.mark.parametrize(
    ("model_type", "readers", "writers"),
    [
        ("llama", {"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}, {"o_proj", "down_proj"}),
        ("gpt2", {"c_attn", "c_fc"}, {"attn.c_proj", "mlp.c_proj"}),
        ("falcon", {"query_key_value", "dense_h_to_4h"}, {"dense", "dense_4h_to_h"}),
    ],
)
def test_types_and_sides(model_type, readers, writers):
    found = block_matrices(model_type, stored_shapes(model_of(model_type)))
    assert {matrix.type for matrix in found if matrix.side == "reads"} == readers
    assert {matrix.type for matrix in found if matrix.side == "writes"} == writers


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "falcon"])
def test_files_without_the_first_part_of_the_path_give_the_same_matrices(model_type):
    shapes = stored_shapes(model_of(model_type))
    without = {name.partition(".")[2]: shape for name, shape in shapes.items() if not name.startswith("lm_head")}
    assert block_matrices(model_type, without) == block_matrices(model_type, shapes)


def test_blocks_are_ordered_as_numbers():
    shapes = {f"model.layers.{block}.mlp.up_proj.weight": (4, 2) for block in (10, 2, 0)}
    assert [matrix.block for matrix in block_matrices("llama", shapes)] == [0, 2, 10]


def test_a_vector_is_no_matrix():
    shapes = {"model.layers.0.mlp.up_proj.weight": (4, 2), "model.layers.1.mlp.up_proj.weight": (8,)}
    assert [matrix.block for matrix in block_matrices("llama", shapes)] == [0]


def test_an_unknown_model_type_is_warned_of_and_read_by_generic_rules(caplog):
    shapes = {
        "gpt_neox.embed_in.weight": (32, 8),
        "gpt_neox.layers.0.input_layernorm.weight": (8,),
        "gpt_neox.layers.0.attention.query_key_value.weight": (24, 8),
        "gpt_neox.layers.0.attention.query_key_value.bias": (24,),
        "gpt_neox.layers.0.mlp.norm_table.weight": (8, 8),
        "gpt_neox.layers.1.attention.relative_attention_bias.weight": (32, 4),
        "gpt_neox.layers.1.mlp.dense.weight": (8, 32),
        "embed_out.weight": (32, 8),
    }
    found = block_matrices("gpt_neox", shapes)
    assert "model_type 'gpt_neox' is not in the table of architectures (llama, " in caplog.text
    assert [(matrix.name, matrix.type, matrix.block, matrix.shape) for matrix in found] == [
        ("gpt_neox.layers.0.attention.query_key_value", "attention.query_key_value", 0, (24, 8)),
        ("gpt_neox.layers.1.mlp.dense", "mlp.dense", 1, (8, 32)),
    ]
    assert {matrix.side for matrix in found} == {"unknown"}


def test_a_known_model_type_gives_no_warning(caplog):
    block_matrices("llama", {"model.layers.0.mlp.up_proj.weight": (4, 2)})
    assert not caplog.records


@pytest.mark.parametrize("model_type", ["llama", "unheard_of"])
def test_tensors_without_a_block_matrix_are_refused(model_type):
    with pytest.raises(CheckpointError, match=rf"no block matrix found for model_type '{model_type}' among 2 tensors"):
        block_matrices(model_type, {"lm_head.weight": (4, 2), "model.norm.weight": (4,)})
