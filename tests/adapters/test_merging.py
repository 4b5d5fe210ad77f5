"""Merged models; oracles: the adapter's own logits, the formula of each method in float64, the base's names."""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import AdaLoraConfig, IA3Config, LNTuningConfig, LoraConfig, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.utils import logging as library_log

from spectral_ft.adapters import adalora
from spectral_ft.adapters.bottleneck import NOT_MERGEABLE, add_bottlenecks
from spectral_ft.adapters.lora import add_lora, set_directions
from spectral_ft.adapters.merging import Difference, difference, logits, merge, unpack, why_not_mergeable
from spectral_ft.adapters.opening import form_of, open_adapter
from spectral_ft.adapters.plain import add_plain
from spectral_ft.adapters.tensors import save_tensors, train_tensors
from spectral_ft.allocation.fitting import parameters, units
from spectral_ft.errors import CheckpointError, PlanError
from spectral_ft.models.checkpoint import Checkpoint
from spectral_ft.types import AllocationPlan, Cost, MatrixAllocation
from tests.conftest import EMBEDDED
from tests.models.tiny_models import model_of
from tests.oracles import law, rotation

BAR = 1e-5
"""Of the logits' norm: what merging may change in float32."""
MATRICES = {matrix.name: matrix for matrix in Checkpoint(EMBEDDED).matrices}
UP, DOWN, Q = (f"model.layers.{end}" for end in ("1.mlp.up_proj", "2.mlp.down_proj", "0.self_attn.q_proj"))
PACKED = {
    "nf4": BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    ),
    "int8": BitsAndBytesConfig(load_in_8bit=True),
}
Adapt = Callable[[PreTrainedModel], torch.nn.Module]


@pytest.fixture(autouse=True)
def plain_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a CPU has bf16 units, bitsandbytes would use them, and the oracles would be rounded to 3 digits."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)


def base(packing: str | None = None, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    options = {"quantization_config": PACKED[packing], "device_map": "cpu"} if packing else {}
    library_log.disable_progress_bar()
    return AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype=dtype, **options).requires_grad_(False).eval()


def plan_of(*allocations: MatrixAllocation, fixed: bool = False) -> AllocationPlan:
    """With its costs counted as LoRA's, or DoRA's."""
    costs = {
        name: Cost(a=matrix.sides[1], b=matrix.sides[0], fixed=matrix.sides[0] * fixed)
        for name, matrix in MATRICES.items()
    }
    matrices = tuple(MATRICES.values())
    moving = [allocation for allocation in allocations if allocation.lr_multiplier]
    added = parameters(units(allocations, matrices, costs))
    return AllocationPlan(allocations, parameters(units(moving, matrices, costs)), added, 1_803_072)


MIXED = (MatrixAllocation(UP, 2, 8.0), MatrixAllocation(DOWN, 5, 16.0), MatrixAllocation(Q, 3, 3.0))
SHARED = tuple(MatrixAllocation(f"model.layers.{b}.mlp.up_proj", 3, 6.0, 1.0, "g", "AB") for b in (0, 1, 3))
FROZEN = (*MIXED, MatrixAllocation("model.layers.3.mlp.up_proj", 4, 8.0, lr_multiplier=0.0))


def with_adalora(model: PreTrainedModel) -> torch.nn.Module:
    """Its allocator has taken half of the singular values away."""
    config = AdaLoraConfig(
        task_type="CAUSAL_LM", target_modules=[UP, DOWN, Q], init_r=6, target_r=3, total_step=3, tinit=0, tfinal=1
    )
    adapted = adalora.add_adalora(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_E" in name:
            parameter.data.normal_(std=3)
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    for step in (1, 2, 3):
        move(adapted, steps=1)
        adalora.after_step(adapted, step)
    assert 0 < sum(adalora.ranks(adapted).values()) <= 9
    return adapted


def with_eva(model: PreTrainedModel) -> torch.nn.Module:
    adapted = add_lora(model, plan_of(*MIXED))
    sides = {a.name: (a.rank, MATRICES[a.name].sides[1]) for a in MIXED}
    directions = {name: rotation(d_in, seed=1)[:rank].astype(np.float32) for name, (rank, d_in) in sides.items()}
    set_directions(adapted, directions)
    return adapted


METHODS: dict[str, Adapt] = {
    "lora": lambda model: add_lora(model, plan_of(*MIXED)),
    "lora with shared factors": lambda model: add_lora(model, plan_of(*SHARED)),
    "lora of which a part is frozen": lambda model: add_lora(model, plan_of(*FROZEN)),
    "rslora": lambda model: add_lora(model, plan_of(*MIXED), use_rslora=True),
    "dora": lambda model: add_lora(model, plan_of(*MIXED, fixed=True), use_dora=True),
    "eva": with_eva,
    "adalora": with_adalora,
    "ia3": lambda model: add_plain(model, IA3Config(task_type="CAUSAL_LM")),
    "ln_tuning": lambda model: add_plain(model, LNTuningConfig(task_type="CAUSAL_LM")),
}


def move(adapted: torch.nn.Module, *, steps: int = 3) -> None:
    """A few large steps of training; nothing where everything stands still."""
    trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=3e-2)
    tokens = torch.randint(4, 160, (3, 20), generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        optimizer.zero_grad()
        adapted(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 5.0)
        optimizer.step()


def trained(adapt: Adapt, folder: Path, packing: str | None = None) -> Path:
    """The folder of what was trained."""
    torch.manual_seed(0)
    adapted = adapt(base(packing))
    if adapt is not with_adalora:
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=0.05)
        move(adapted)
    if hasattr(adapted, "peft_config"):
        adapted.save_pretrained(str(folder))
    else:
        save_tensors(adapted, folder)
    return folder


@pytest.mark.parametrize(("method", "packing"), [*product(METHODS, [None, "nf4"]), ("lora", "int8"), ("ia3", "int8")])
def test_merged_equals_unmerged_on_whatever_base_it_was_trained(
    method: str, packing: str | None, tmp_path: Path
) -> None:
    folder = trained(METHODS[method], tmp_path, packing)
    adapted = open_adapter(base(), folder)
    expected = logits(adapted)
    merged = merge(adapted)
    assert difference(expected, logits(merged)).relative < BAR
    assert difference(expected, logits(base())).relative > 100 * BAR
    assert merged.state_dict().keys() == base().state_dict().keys()
    assert type(merged) is type(base()) and not any(parameter.requires_grad for parameter in merged.parameters())
    assert why_not_mergeable(form_of(folder)) is None


@pytest.mark.parametrize("names", [None, [UP, Q]])
def test_trained_tensors_are_merged_already(names: list[str] | None, tmp_path: Path) -> None:
    folder = trained(lambda model: train_tensors(model, names), tmp_path)
    opened = open_adapter(base(), folder)
    expected = logits(opened)
    merged = merge(opened)
    assert merged is opened and torch.equal(logits(merged), expected)
    before = base().state_dict()
    moved = [key for key, weight in merged.state_dict().items() if not torch.equal(weight, before[key])]
    assert set(moved) == {f"{name}.weight" for name in names} if names else len(moved) > 30
    assert form_of(folder) == "TENSORS" and why_not_mergeable("TENSORS") is None


def factors(folder: Path, name: str) -> dict[str, np.ndarray]:
    """What is stored of one matrix, in float64."""
    stored = load_file(folder / "adapter_model.safetensors")
    start = f"base_model.model.{name}.lora_"
    return {key.removeprefix(start)[0]: t.double().numpy() for key, t in stored.items() if key.startswith(start)}


def weight(model: PreTrainedModel, name: str) -> np.ndarray:
    return model.get_submodule(name).weight.detach().double().numpy()


@pytest.mark.parametrize(
    ("method", "scaling"), [("lora", lambda alpha, r: alpha / r), ("rslora", lambda alpha, r: alpha / r**0.5)]
)
def test_a_merged_weight_is_the_formula(method: str, scaling: Callable[[float, int], float], tmp_path: Path) -> None:
    folder = trained(METHODS[method], tmp_path)
    merged = merge(open_adapter(base(), folder))
    for allocation in MIXED:
        stored = factors(folder, allocation.name)
        update = scaling(allocation.lora_alpha, allocation.rank) * stored["B"] @ stored["A"]
        assert np.abs(update).max() > 1e-3
        assert np.allclose(weight(merged, allocation.name), weight(base(), allocation.name) + update, atol=1e-6)


def test_a_merged_dora_weight_has_the_trained_row_norms(tmp_path: Path) -> None:
    folder = trained(METHODS["dora"], tmp_path)
    merged = merge(open_adapter(base(), folder))
    for allocation in MIXED:
        stored = factors(folder, allocation.name)
        moved = weight(base(), allocation.name) + allocation.lora_alpha / allocation.rank * stored["B"] @ stored["A"]
        rows = stored["m"] / np.linalg.norm(moved, axis=1)
        assert np.allclose(weight(merged, allocation.name), rows[:, None] * moved, atol=1e-6)


def test_a_merged_adalora_weight_has_the_singular_values_that_are_left(tmp_path: Path) -> None:
    folder = trained(with_adalora, tmp_path)
    config = json.loads((folder / "adapter_config.json").read_text())
    merged = merge(open_adapter(base(), folder))
    kept = [factors(folder, name)["E"].size for name in (UP, DOWN, Q)]
    assert sum(kept) <= 9 < 18
    for name in (UP, DOWN, Q):
        stored = factors(folder, name)
        update = config["lora_alpha"] / config["init_r"] * stored["B"] @ (stored["A"] * stored["E"])
        assert np.allclose(weight(merged, name), weight(base(), name) + update, atol=1e-5)


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox", "falcon", "t5", "bert", "qwen2"])
@pytest.mark.parametrize("form", ["lora", "dora", "adalora", "ia3", "ln_tuning"])
def test_other_architectures_merge_too(form: str, model_type: str) -> None:
    linear = {
        "gpt2": ["c_attn", "mlp.c_proj"],
        "gpt_neox": ["query_key_value"],
        "falcon": ["query_key_value"],
        "t5": ["q", "wo"],
        "bert": ["query"],
        "qwen2": ["down_proj"],
    }
    norms = {
        "gpt2": ["ln_1"],
        "gpt_neox": ["input_layernorm"],
        "falcon": ["input_layernorm"],
        "t5": ["layer_norm"],
        "bert": ["LayerNorm"],
        "qwen2": ["input_layernorm"],
    }
    heads = ["classifier"] if model_type == "bert" else None
    targets = {"target_modules": linear[model_type], "modules_to_save": heads}
    configs = {
        "lora": lambda: LoraConfig(r=3, **targets),
        "dora": lambda: LoraConfig(r=3, use_dora=True, **targets),
        "adalora": lambda: AdaLoraConfig(init_r=3, target_r=2, total_step=9, **targets),
        "ia3": lambda: IA3Config(feedforward_modules=[], **targets),
        "ln_tuning": lambda: LNTuningConfig(target_modules=norms[model_type], modules_to_save=heads),
    }
    plain = model_of(model_type).requires_grad_(False).eval()
    names, before = plain.state_dict().keys(), logits(plain)
    adapted = get_peft_model(plain, configs[form]()).eval()
    torch.manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.3)
    expected = logits(adapted)
    merged = merge(adapted)
    assert difference(expected, logits(merged)).relative < BAR
    assert difference(expected, before).relative > 100 * BAR
    assert merged.state_dict().keys() == names


@pytest.mark.parametrize("method", ["lora", "dora", "ia3", "ln_tuning"])
def test_in_bfloat16_the_merged_weights_are_rounded_once(method: str, tmp_path: Path) -> None:
    folder = trained(METHODS[method], tmp_path)
    adapted = open_adapter(base(dtype=torch.bfloat16), folder)
    expected = logits(adapted)
    merged = merge(adapted)
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    assert difference(expected, logits(merged)).relative < torch.finfo(torch.bfloat16).eps ** 0.5


@pytest.mark.parametrize("packing", PACKED)
def test_a_packed_base_is_refused(packing: str, tmp_path: Path) -> None:
    adapted = open_adapter(base(packing), trained(METHODS["lora"], tmp_path))
    with pytest.raises(PlanError, match=r"model\.layers\.0\.self_attn\..*weight is packed: .* 4 or 8 bits\. Load the"):
        merge(adapted)


def test_a_base_packed_on_disk_is_merged_as_what_it_stands_for(tmp_path: Path) -> None:
    base("nf4").save_pretrained(tmp_path / "base")
    folder = trained(METHODS["lora"], tmp_path / "adapter", "nf4")

    def packed(dtype: torch.dtype = torch.float32) -> PreTrainedModel:
        return AutoModelForCausalLM.from_pretrained(tmp_path / "base", dtype=dtype, device_map={"": "cpu"})

    expected = logits(open_adapter(packed(), folder))
    merged = merge(open_adapter(unpack(packed()), folder))
    assert difference(expected, logits(merged)).relative < BAR
    merged.save_pretrained(tmp_path / "merged")
    reopened = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert torch.equal(logits(reopened), logits(merged))
    assert {parameter.dtype for parameter in reopened.parameters()} == {torch.float32}
    assert len({parameter.dtype for parameter in unpack(packed(torch.bfloat16)).parameters()}) == 1


def test_what_is_not_packed_is_left_alone() -> None:
    model = base()
    assert unpack(model) is model


def test_a_packing_without_a_way_back_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model = base("nf4")
    monkeypatch.setattr(
        type(model.hf_quantizer), "_dequantize", lambda *_, **__: (_ for _ in ()).throw(ValueError("x"))
    )
    with pytest.raises(CheckpointError, match=r"tiny is packed, and there is no way back to weights .*: x"):
        unpack(model)


def test_a_base_whose_codes_were_rearranged_is_not_dequantized() -> None:
    model = base("nf4")
    model.get_submodule(UP).weight.quant_state.packing_format_for_cpu = True
    with pytest.raises(CheckpointError, match=r"tiny has run in 4 bits on a CPU .*: load it again"):
        unpack(model)


def test_what_weights_cannot_hold_is_refused() -> None:
    bottlenecks = add_bottlenecks(base(), {UP: 3}, placement="series", init="zero")
    with pytest.raises(PlanError, match=r"Bottleneck adapters cannot be merged .* a tanh"):
        merge(bottlenecks)
    assert why_not_mergeable("BOTTLENECK") == NOT_MERGEABLE
    prefix = get_peft_model(base(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(PlanError, match=r"trained prefix cannot be merged .* keys and values"):
        merge(prefix)
    assert "how to merge VERA: what can be is ADALORA, IA3, LN_TUNING, LORA, TENSORS" in str(why_not_mergeable("VERA"))


def test_an_adapter_that_diverged_is_not_merged(tmp_path: Path) -> None:
    adapted = open_adapter(base(), trained(METHODS["lora"], tmp_path))
    adapted.get_base_model().get_submodule(UP).lora_B["default"].weight.data[3, 1] = torch.nan
    with pytest.raises(CheckpointError, match="cannot be merged: NaNs detected"):
        merge(adapted)


def test_the_batch_is_the_same_at_each_call_and_draws_no_random_numbers() -> None:
    model, state = base(), torch.get_rng_state()
    said = logits(model)
    assert said.shape == (4, 32, 166) and said.dtype == torch.float32
    assert torch.equal(said, logits(model)) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("model_type", "shape"), [("gpt2", (4, 16, 32)), ("t5", (4, 32, 32)), ("bert", (4, 2)), ("llama", (4, 32, 32))]
)
def test_every_kind_of_model_says_something_within_its_context(model_type: str, shape: tuple[int, ...]) -> None:
    assert logits(model_of(model_type).eval()).shape == shape


def test_a_difference_is_what_it_says() -> None:
    one, other = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 4.5]])
    apart = difference(one, other)
    assert (apart.largest, apart.relative) == (0.5, 0.1)
    assert difference(other, one).relative == pytest.approx(0.5 / 29.25**0.5)


@law
@given(st.floats(1e-3, 1e3), st.floats(-5, 5))
def test_a_difference_scales_with_the_logits_and_a_relative_one_does_not(scale: float, shift: float) -> None:
    one = torch.randn(3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    plain, scaled = difference(one, one + shift), difference(scale * one, scale * (one + shift))
    assert plain.largest == pytest.approx(abs(shift))
    assert scaled.largest == pytest.approx(scale * plain.largest)
    assert scaled.relative == pytest.approx(plain.relative)
    assert difference(one, one) == Difference(largest=0.0, relative=0.0)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_logits_that_are_no_numbers_are_told(wrong: float) -> None:
    said = torch.zeros(2, 3)
    said[1, 1] = wrong
    with pytest.raises(CheckpointError, match="1 of 6 logits are NaN or infinite"):
        difference(torch.ones(2, 3), said)
    with pytest.raises(CheckpointError, match="1 of 6 logits"):
        difference(said, torch.ones(2, 3))
