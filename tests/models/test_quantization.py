"""The precision of the frozen base; oracles: QLoRA's table, rounding by hand, the bytes that are there."""

import logging
from collections.abc import Iterator
from typing import Any

import bitsandbytes
import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import PreTrainedModel

from spectral_ft.models.loaded import loaded_matrices
from spectral_ft.models.loading import load_model
from spectral_ft.models.quantization import Int8, Nf4, Unquantized
from tests.conftest import EMBEDDED
from tests.models.small_checkpoints import save_bert

NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""The 16 numbers of 4-bit NormalFloat: QLoRA, arXiv:2305.14314, appendix E."""
PACKINGS = {"nf4-double": Nf4(double_quantization=True), "nf4": Nf4(double_quantization=False), "int8": Int8(6.0)}
KINDS = {"nf4-double": bitsandbytes.nn.Linear4bit, "nf4": bitsandbytes.nn.Linear4bit}
KINDS["int8"] = bitsandbytes.nn.Linear8bitLt


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    library = logging.getLogger("bitsandbytes")  # it says at each product that it casts the input
    before = library.level
    library.setLevel(logging.ERROR)
    yield
    library.setLevel(before)


def load(packing: Unquantized | Nf4 | Int8) -> PreTrainedModel:
    return load_model(EMBEDDED, quantization=packing, dtype="float32", trust_remote_code=False)


@pytest.fixture(scope="module")
def plain() -> PreTrainedModel:
    return load(Unquantized())


@pytest.fixture(scope="module")
def packed() -> dict[str, PreTrainedModel]:
    return {name: load(packing) for name, packing in PACKINGS.items()}


def weights(model: PreTrainedModel) -> dict[str, np.ndarray]:
    """Matrices by name, as what they stand for."""
    matrices = loaded_matrices(model, dequantize=True)
    return {matrix.name: matrices.read(matrix) for matrix in matrices.matrices}


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    tokens = torch.randint(4, 160, (3, 20), generator=torch.Generator().manual_seed(0)).to(model.device)
    found: torch.Tensor = model(tokens).logits.cpu()
    return found


def test_labels_and_bits_are_those_of_records() -> None:
    """4 + 32 / 64, or 4 + 8 / 64 + 32 / (64 256); 8 without the scale of a row."""
    assert (Unquantized().label, Unquantized().bits) == ("none", None)
    assert {name: packing.label for name, packing in PACKINGS.items()} == {name: name for name in PACKINGS}
    assert [packing.bits for packing in PACKINGS.values()] == pytest.approx([4.126953125, 4.5, 8.0])


@pytest.mark.parametrize("name", PACKINGS)
def test_the_bits_are_the_bytes_that_are_there(name: str, packed: dict[str, PreTrainedModel]) -> None:
    stored, entries = 0.0, 0
    for layer in (module for module in packed[name].modules() if isinstance(module, KINDS[name])):
        weight: Any = layer.weight
        entries += layer.in_features * layer.out_features
        state = getattr(weight, "quant_state", None)
        stored += weight.nbytes + (state.absmax.nbytes if state is not None else 0)
        if state is not None and state.nested:
            stored += state.state2.absmax.nbytes
    assert 8 * stored / entries == pytest.approx(PACKINGS[name].bits, rel=0.01)


@pytest.mark.parametrize("name", PACKINGS)
def test_the_matrices_of_the_blocks_are_packed_and_nothing_else(name: str, packed: dict[str, PreTrainedModel]) -> None:
    model = packed[name]
    linear = {path: module for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    blocks = {path for path in linear if ".layers." in path}
    assert {path for path, module in linear.items() if isinstance(module, KINDS[name])} == blocks
    assert len(blocks) == 28
    assert {p.dtype for path, p in model.named_parameters() if ".layers." not in path} == {torch.float32}
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("name", PACKINGS)
def test_a_classifier_s_head_is_not_packed(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = save_bert(tmp_path_factory.mktemp("bert"), hidden_size=64, intermediate_size=64)
    options: dict[str, Any] = {"kind": "classifier", "labels": ["no", "yes"], "quantization": PACKINGS[name]}
    model = load_model(folder, dtype="float32", trust_remote_code=False, **options)
    assert type(model.classifier) is torch.nn.Linear and model.classifier.weight.dtype == torch.float32
    assert isinstance(model.bert.encoder.layer[0].output.dense, KINDS[name])


def test_nf4_takes_the_nearest_of_16_numbers_of_each_block_of_64(
    plain: PreTrainedModel, packed: dict[str, PreTrainedModel]
) -> None:
    table = np.array(NF4)
    found = weights(packed["nf4"])
    for name, weight in weights(plain).items():
        blocks, stands_for = weight.reshape(-1, 64), found[name].reshape(-1, 64)
        scale = np.abs(blocks).max(axis=1, keepdims=True)
        distance = np.abs(table - (blocks / scale)[:, :, None])
        nearest = table[distance.argmin(axis=2)]
        clear = np.diff(np.sort(distance, axis=2)[:, :, :2], axis=2)[:, :, 0] > 1e-5  # no tie between two of them
        assert np.abs(nearest * scale - stands_for)[clear].max() < 1e-6, name


def test_double_quantization_moves_the_scales_a_little(packed: dict[str, PreTrainedModel]) -> None:
    once, twice = weights(packed["nf4"]), weights(packed["nf4-double"])
    moved = max(float(np.abs(once[name] - twice[name]).max() / np.abs(once[name]).max()) for name in once)
    assert 0 < moved < 0.05


def test_int8_rounds_each_row_to_127ths_of_its_largest_entry(
    plain: PreTrainedModel, packed: dict[str, PreTrainedModel]
) -> None:
    found = weights(packed["int8"])
    for name, weight in weights(plain).items():
        largest = np.abs(weight).max(axis=1, keepdims=True)
        codes = np.rint(found[name] * 127 / largest)
        assert np.abs(found[name] - codes * largest / 127).max() < 1e-6
        assert np.abs(codes - weight * 127 / largest).max() < 0.5 + 1e-3
        assert set(np.abs(codes).max(axis=1)) == {127.0}


def test_logits_move_by_as_much_as_the_bits_say(plain: PreTrainedModel, packed: dict[str, PreTrainedModel]) -> None:
    right = logits(plain)
    moved = {name: float((logits(model) - right).norm() / right.norm()) for name, model in packed.items()}
    assert 1e-4 < moved["int8"] < moved["nf4"] / 2 < 0.1, moved
    assert moved["nf4-double"] == pytest.approx(moved["nf4"], rel=0.1)


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_the_threshold_reaches_every_layer(threshold: float) -> None:
    layers = [module for module in load(Int8(threshold)).modules() if isinstance(module, KINDS["int8"])]
    assert {layer.state.threshold for layer in layers} == {threshold}


def test_entries_above_the_threshold_are_multiplied_in_16_bits(plain: PreTrainedModel) -> None:
    """One feature of 60 among features of 1: without the threshold it takes the 127 steps for itself."""
    inputs = torch.randn(5, 192, generator=torch.Generator().manual_seed(0))
    inputs[:, 7] = 60.0
    name, errors = "model.layers.1.mlp.up_proj", {}
    expected = plain.get_submodule(name)(inputs.to(plain.device))
    for threshold in (0.0, 6.0, 100.0):
        layer = load(Int8(threshold)).get_submodule(name)
        errors[threshold] = float((layer(inputs.to(plain.device)) - expected).norm() / expected.norm())
    assert errors[6.0] < errors[0.0] / 3 and errors[100.0] == pytest.approx(errors[0.0])


def test_what_the_loader_is_told() -> None:
    assert Unquantized().load_options(torch.float32) is None
    for dtype in (torch.float32, torch.bfloat16):
        told = Nf4(double_quantization=False).load_options(dtype)
        assert (told.load_in_4bit, told.bnb_4bit_quant_type, told.bnb_4bit_compute_dtype) == (True, "nf4", dtype)
        assert not told.bnb_4bit_use_double_quant
        told = Int8(4.5).load_options(dtype)
        assert (told.load_in_8bit, told.load_in_4bit, told.llm_int8_threshold) == (True, False, 4.5)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (Int8, {"threshold": -0.1}, "greater than or equal to 0"),
        (Int8, {"threshold": "6"}, "valid number"),
        (Int8, {}, "required"),
        (Nf4, {"double_quantization": "yes"}, "valid boolean"),
        (Nf4, {"double_quantization": True, "bits": 3}, "Unexpected keyword"),
        (Unquantized, {"bits": 16}, "Unexpected keyword"),
    ],
)
def test_options_are_checked(kind: Any, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        kind(**options)
