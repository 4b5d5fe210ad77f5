"""A packed base that is dequantized once; oracle: the packed base itself, at every product."""

import copy
import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedModel

from spectral_ft.models.dequantized import RoundedInputs, dequantize_once, dequantized_bytes, is_packed
from spectral_ft.models.loaded import loaded_matrices
from spectral_ft.models.loading import load_model
from spectral_ft.models.quantization import Int8, Nf4, Unquantized
from tests.conftest import EMBEDDED
from tests.models.small_checkpoints import save_bert

PACKINGS = {"nf4": Nf4(False), "nf4-double": Nf4(True), "int8": Int8(6.0), "int8 without outliers": Int8(0.0)}


@pytest.fixture(scope="module", params=PACKINGS)
def pair(request: pytest.FixtureRequest) -> tuple[PreTrainedModel, PreTrainedModel]:
    """The same base packed, and dequantized once."""
    packed, once = (
        load_model(EMBEDDED, quantization=PACKINGS[request.param], dtype="float32", trust_remote_code=False)
        for _ in range(2)
    )
    dequantize_once(once)
    return packed, once


@pytest.fixture(scope="module", autouse=True)
def quiet() -> Iterator[None]:
    library = logging.getLogger("bitsandbytes")  # it says at each product that it casts the input
    before = library.level
    library.setLevel(logging.ERROR)
    yield
    library.setLevel(before)


def tokens(rows: int = 3) -> torch.Tensor:
    return torch.randint(4, 160, (rows, 20), generator=torch.Generator().manual_seed(0))


def close(found: torch.Tensor, right: torch.Tensor) -> bool:
    return float((found - right).abs().max()) <= 1e-6 * float(right.abs().max())


def test_it_is_plain_and_says_so(pair: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    packed, once = pair
    assert is_packed(packed) and not is_packed(once)
    assert {p.dtype for p in once.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in once.parameters()) and not once.training
    assert not getattr(once, "is_quantized", False) and not hasattr(once.config, "quantization_config")


def test_every_matrix_is_what_its_codes_stand_for(pair: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    packed, once = (loaded_matrices(model, dequantize=True) for model in pair)
    assert packed.matrices == once.matrices and len(once.matrices) == 28
    for matrix in once.matrices:
        assert close(torch.from_numpy(once.read(matrix)), torch.from_numpy(packed.read(matrix))), matrix.name


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("rows", [1, 3])
@torch.no_grad()
def test_every_module_gives_the_same(pair: tuple[PreTrainedModel, PreTrainedModel], training: bool, rows: int) -> None:
    packed, once = (model.train(training) for model in pair)
    compared = []

    def compare(name: str) -> Any:
        return lambda module, given, made: compared.append((name, close(once.get_submodule(name)(*given), made)))

    handles = [m.register_forward_hook(compare(n)) for n, m in packed.named_modules() if isinstance(m, torch.nn.Linear)]
    logits = packed(tokens(rows)).logits
    for handle in handles:
        handle.remove()
    assert len(compared) == 29 and all(same for _, same in compared), compared
    # An input of an 8-bit product may lie between two codes.
    assert float((once(tokens(rows)).logits - logits).norm() / logits.norm()) < (
        5e-3 if type(once.model.layers[0].mlp.up_proj) is RoundedInputs and not training else 1e-6
    )


def test_lora_has_the_same_gradients(pair: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    gradients = []
    for model in map(copy.deepcopy, pair):
        torch.manual_seed(0)
        adapted: Any = get_peft_model(
            model, LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        )
        adapted.train()
        adapted(input_ids=tokens(), labels=tokens()).loss.backward()
        gradients.append({name: p.grad for name, p in adapted.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) == 2 * 2 * 4
    for name, right in gradients[0].items():
        assert float((gradients[1][name] - right).norm()) <= 1e-5 * float(right.norm()), name


@pytest.mark.parametrize("threshold", [0.0, 6.0])
def test_inputs_with_outliers_are_rounded_as_bitsandbytes_does(threshold: float) -> None:
    model = load_model(EMBEDDED, quantization=Int8(threshold), dtype="float32", trust_remote_code=False)
    inputs = torch.randn(2, 5, 192, generator=torch.Generator().manual_seed(0))
    inputs[0, 3, 7] = 60.0
    name = "model.layers.1.mlp.up_proj"
    right = model.get_submodule(name)(inputs)
    fresh = load_model(EMBEDDED, quantization=Int8(threshold), dtype="float32", trust_remote_code=False)
    dequantize_once(fresh)
    module = fresh.get_submodule(name)
    assert isinstance(module, RoundedInputs) and close(module(inputs), right)
    plain = torch.nn.functional.linear(inputs, module.weight)
    assert not close(plain, right)  # so that something was rounded


@pytest.mark.parametrize("name", ["nf4", "int8"])
@torch.no_grad()
def test_biases_and_a_classifier_s_head_stay(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = save_bert(tmp_path_factory.mktemp("bert"), hidden_size=64, intermediate_size=64)
    options: dict[str, Any] = {"kind": "classifier", "labels": ["no", "yes"], "dtype": "float32"}
    packed, once = (
        load_model(folder, quantization=PACKINGS[name], trust_remote_code=False, **options) for _ in range(2)
    )
    dequantize_once(once)
    ids = torch.randint(1, 20, (2, 6), generator=torch.Generator().manual_seed(0))
    assert close(once(ids).logits, packed(ids).logits)


def test_a_base_that_is_not_packed_is_left_alone() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=20))
    assert not is_packed(model)


def test_the_estimate_grows_with_base_and_batch(pair: tuple[PreTrainedModel, PreTrainedModel]) -> None:
    plain = load_model(EMBEDDED, quantization=Unquantized(), dtype="float32", trust_remote_code=False)
    stored = sum(p.nbytes for p in plain.parameters())
    few, many = (dequantized_bytes(pair[0], tokens=count) for count in (0, 1000))
    assert stored < few < 2 * stored and many > few
    assert few == dequantized_bytes(plain, tokens=0)
