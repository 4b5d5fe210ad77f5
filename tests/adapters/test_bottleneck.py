"""Bottleneck adapters on a model; oracles: the base with the formula in hooks, its own logits, the published counts."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from spectral_ft.adapters.bottleneck import (
    add_bottlenecks,
    bottleneck_parameters,
    open_bottlenecks,
    save_bottlenecks,
)
from spectral_ft.adapters.bottleneck_layer import BottleneckLinear, Placement
from spectral_ft.errors import CheckpointError, PlanError
from spectral_ft.models.loaded import loaded_matrices
from tests.adapters.bottlenecks import KINDS, PACKED, SITES, adapted, base, both, sizes_of, trainable
from tests.conftest import edit_json
from tests.models.tiny_models import linear_weights, model_of
from tests.oracles import law, matrix


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(4, 160, (3, 20), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("placement", "published"), [("series", 134_217_728), ("parallel", 247_463_936)])
def test_llama_7b_has_the_published_counts(placement: Placement, published: int) -> None:
    shapes = {"q_proj": (4096, 4096), "gate_proj": (11008, 4096), "up_proj": (11008, 4096), "down_proj": (4096, 11008)}
    matrices = [matrix(f"{block}.{kind}", shape) for block in range(32) for kind, shape in shapes.items()]
    sizes = {m.name: 256 for m in matrices if m.type in SITES[placement]}
    assert bottleneck_parameters(sizes, matrices, placement=placement) == published


@law
@given(st.data(), st.sampled_from(["llama", "gpt2"]), st.sampled_from([*SITES]))
def test_what_is_counted_is_what_trains(data: st.DataObject, model_type: str, placement: Placement) -> None:
    model = model_of(model_type)
    matrices = loaded_matrices(model).matrices
    names = data.draw(st.sets(st.sampled_from([m.name for m in matrices]), min_size=1))
    sizes = {name: data.draw(st.integers(0, 20)) for name in sorted(names)} | {matrices[0].name: 3}
    counted = bottleneck_parameters(sizes, matrices, placement=placement)
    fresh = trainable(add_bottlenecks(model, sizes, placement=placement, init="zero"))
    assert counted == sum(parameter.numel() for parameter in fresh.values())
    assert {name.partition(".bottleneck_")[0] for name in fresh} == {name for name, size in sizes.items() if size}


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_start_changes_no_logit(placement: Placement, dtype: torch.dtype, tokens: torch.Tensor) -> None:
    fresh = add_bottlenecks(base(dtype), sizes_of(placement), placement=placement, init="zero")
    assert not any(module.training for module in fresh.modules())  # as the base was
    assert torch.equal(fresh(tokens).logits, base(dtype)(tokens).logits)


@both
def test_the_model_is_the_base_with_the_formula_at_its_sites(placement: Placement, tokens: torch.Tensor) -> None:
    model, plain = adapted(placement), base()
    for name in sizes_of(placement):
        site = model.get_submodule(name)
        d, u = site.bottleneck_down.weight, site.bottleneck_up.weight
        hook = {
            "series": lambda module, x, d=d, u=u: x[0] + torch.tanh(x[0] @ d.T) @ u.T,
            "parallel": lambda module, x, h, d=d, u=u: h + torch.tanh(x[0] @ d.T) @ u.T,
        }[placement]
        module = plain.get_submodule(name)
        module.register_forward_pre_hook(hook) if placement == "series" else module.register_forward_hook(hook)
    found = model(tokens).logits
    torch.testing.assert_close(found, plain(tokens).logits, rtol=1e-4, atol=1e-4)
    assert (found - base()(tokens).logits).abs().max() > 0.1


@both
def test_only_the_adapters_train_and_each_gets_a_gradient(placement: Placement, tokens: torch.Tensor) -> None:
    model = adapted(placement, base().requires_grad_(True))
    model(input_ids=tokens, labels=tokens).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None) == (".bottleneck_" in name)
        assert not parameter.requires_grad or (parameter.grad.any(dim=1).all() and parameter.dtype == torch.float32)


@both
@pytest.mark.parametrize("packing", [None, "nf4"])
def test_activation_checkpointing_gives_the_same_gradients(
    placement: Placement, packing: str | None, tokens: torch.Tensor
) -> None:
    def gradients(*, checkpointing: bool) -> tuple[dict[str, torch.Tensor], int]:
        model, calls = adapted(placement, base(packing=packing)).train(), []
        model.get_submodule("model.layers.0.mlp.up_proj").bottleneck_up.register_forward_hook(
            lambda *_: calls.append(1)
        )
        if checkpointing:
            model.activation_checkpointing_enable()
        model(input_ids=tokens, labels=tokens).loss.backward()
        return {name: parameter.grad for name, parameter in trainable(model).items()}, len(calls)

    (plain, once), (checkpointed, twice) = gradients(checkpointing=False), gradients(checkpointing=True)
    assert (once, twice) == (1, 2)  # it was really computed again
    assert all(gradient.any() for gradient in plain.values())
    torch.testing.assert_close(checkpointed, plain)


@both
def test_a_bf16_base_keeps_its_dtype_and_the_adapters_theirs(placement: Placement, tokens: torch.Tensor) -> None:
    model = adapted(placement, base(torch.bfloat16))
    site = model.get_submodule("model.layers.0.mlp.up_proj")
    x = torch.randn(4, 192, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert site(x).dtype == torch.bfloat16
    wide = adapted(placement).get_submodule("model.layers.0.mlp.up_proj")(x.float())
    assert (site(x).float() - wide).abs().max() < 0.02 * wide.abs().max()
    model(input_ids=tokens, labels=tokens).loss.backward()
    for parameter in trainable(model).values():
        assert parameter.dtype == parameter.grad.dtype == torch.float32 and parameter.grad.any()


@both
@pytest.mark.parametrize("packing", PACKED)
def test_a_packed_base_is_wrapped_as_it_is(placement: Placement, packing: str, tokens: torch.Tensor) -> None:
    # in training mode: a forward in evaluation mode may repack the weights in a form that passes no gradient on
    plain = base(packing=packing).train()
    before = plain(tokens).logits
    modules = {name: plain.get_submodule(name) for name in sizes_of(placement)}
    model = add_bottlenecks(plain, sizes_of(placement), placement=placement, init="zero")
    assert torch.equal(model(tokens).logits, before)
    for name, module in modules.items():
        site = model.get_submodule(name)
        assert site.base_layer is module and isinstance(module, KINDS[packing])
        torch.nn.init.normal_(site.bottleneck_up.weight, std=0.2)
    assert (model(tokens).logits - before).abs().max() > 0.1
    model(input_ids=tokens, labels=tokens).loss.backward()
    assert all(parameter.grad.any() for parameter in trainable(model).values())


@both
def test_saved_adapters_open_on_a_fresh_base_with_the_same_logits(
    placement: Placement, tokens: torch.Tensor, tmp_path: Path
) -> None:
    model = adapted(placement, size=200)  # above the smaller side, which bounds no bottleneck
    save_bottlenecks(model, tmp_path / "adapter")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    sizes = sizes_of(placement, 200)
    assert config == {"peft_type": "BOTTLENECK", "placement": placement, "init": "bert", "sizes": sizes}
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert stored.keys() == trainable(model).keys()

    opened = open_bottlenecks(base().train(), tmp_path / "adapter")
    assert torch.equal(opened(tokens).logits, model(tokens).logits)
    assert not trainable(opened) and not any(module.training for module in opened.modules())
    save_bottlenecks(opened, tmp_path / "again")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "adapter" / file).read_bytes()


def test_opening_draws_no_random_numbers(tmp_path: Path) -> None:
    save_bottlenecks(adapted("series"), tmp_path)
    model = base()
    state = torch.get_rng_state()
    open_bottlenecks(model, tmp_path)
    assert torch.equal(torch.get_rng_state(), state)


@both
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "t5", "falcon"])
def test_every_matrix_of_an_architecture_can_be_a_site(placement: Placement, model_type: str) -> None:
    def logits(model: PreTrainedModel) -> torch.Tensor:
        more = {"decoder_input_ids": torch.arange(4)[None]} if model_type == "t5" else {}
        return model.eval()(torch.arange(4)[None], **more).logits

    plain = model_of(model_type).requires_grad_(False)
    sizes = dict.fromkeys(linear_weights(plain), 3)
    model = add_bottlenecks(model_of(model_type), sizes, placement=placement, init="zero")
    assert torch.equal(logits(model), logits(plain))


@both
def test_the_base_keeps_its_names(placement: Placement) -> None:
    model, plain = adapted(placement), base()
    names = [name.replace(".base_layer.", ".") for name, _ in model.named_parameters() if ".bottleneck_" not in name]
    assert names == [name for name, _ in plain.named_parameters()]
    assert loaded_matrices(model).matrices == loaded_matrices(plain).matrices


def kinds(model: PreTrainedModel) -> list[type[torch.nn.Module]]:
    return [type(module) for module in model.modules()]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (
            {"model.layers.0.mlp.up_proj": 2, "model.layers.9.mlp.up_proj": 2},
            r"model\.layers\.9\.mlp\.up_proj is no module of this LlamaForCausalLM.*its 29 linear modules end in "
            "down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj",
        ),
        ({"model.layers.0.input_layernorm": 2}, r"input_layernorm is a LlamaRMSNorm, and no linear module, of this"),
        ({"model.embed_tokens": 2}, "embed_tokens is a Embedding, and no linear module"),
        ({"model.layers.0.mlp.up_proj": -1}, r"layers\.0\.mlp\.up_proj has size -1: take at least 1"),
        ({"model.layers.0.mlp.up_proj": 0}, "there are no sites for bottleneck adapters"),
        ({}, "there are no sites for bottleneck adapters"),
    ],
)
def test_a_wrong_site_is_named_and_the_model_stays_as_it_was(sizes: dict[str, int], message: str) -> None:
    model = base().requires_grad_(True)
    before = kinds(model)
    with pytest.raises(PlanError, match=message):
        add_bottlenecks(model, sizes, placement="series", init="zero")
    assert kinds(model) == before and all(parameter.requires_grad for parameter in model.parameters())


def test_adapters_are_added_once() -> None:
    with pytest.raises(PlanError, match="this LlamaForCausalLM has bottleneck adapters already"):
        add_bottlenecks(adapted("series"), {"model.layers.0.mlp.down_proj": 2}, placement="series", init="zero")


def test_counting_names_what_it_does_not_know() -> None:
    with pytest.raises(PlanError, match=r"model\.layers\.1\.up_proj is none of the 1 matrices"):
        bottleneck_parameters({"model.layers.1.up_proj": 2}, [matrix("0.up_proj")], placement="series")
    with pytest.raises(PlanError, match=r"layers\.0\.up_proj has size -2"):
        bottleneck_parameters({"model.layers.0.up_proj": -2}, [matrix("0.up_proj")], placement="series")


def test_a_model_without_adapters_has_none_to_save(tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="this LlamaForCausalLM has no bottleneck adapters to save"):
        save_bottlenecks(base(), tmp_path)


UP = "model.layers.0.mlp.up_proj.bottleneck_up.weight"


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    file = folder / "adapter_model.safetensors"
    stored = load_file(file) | tensors
    save_file({name: tensor for name, tensor in stored.items() if tensor is not None}, file)


def cut(folder: Path) -> None:
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "adapter_config.json").unlink(), "could not be put on this base model: .*No such"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "could not be put on this base model"),
        (cut, "could not be put on this base model"),
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "describes no bottleneck adapters: the file"),
        (
            lambda folder: edit_json(folder / "adapter_config.json", peft_type="LORA"),
            "describes no bottleneck adapters: peft_type: .*BOTTLENECK",
        ),
        (
            lambda folder: edit_json(folder / "adapter_config.json", placement="beside"),
            "describes no bottleneck adapters: placement",
        ),
        (
            lambda folder: edit_json(folder / "adapter_config.json", sizes={UP: 0}),
            r"describes no bottleneck adapters: sizes\..*greater than or equal to 1",
        ),
        (
            lambda folder: edit_json(folder / "adapter_config.json", sizes={"model.layers.7.mlp.up_proj": 5}),
            r"could not be put on this base model: model\.layers\.7\.mlp\.up_proj is no module",
        ),
        (lambda folder: change(folder, **{UP: None}), rf"{UP} is missing from .*adapter_model\.safetensors"),
        (lambda folder: change(folder, more=torch.ones(1)), r"more is not in adapter_config\.json, but in .*adapter"),
        (
            lambda folder: change(folder, **{UP: torch.ones(191, 5)}),
            rf"{UP} in .* has shape \(191, 5\), this base model needs \(192, 5\)",
        ),
        (
            lambda folder: change(folder, **{UP: torch.full((192, 5), torch.nan)}),
            rf"{UP} holds NaN or infinite entries: its training diverged",
        ),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_and_the_model_stays_as_it_was(damage, message, tmp_path: Path) -> None:
    save_bottlenecks(adapted("series"), tmp_path)
    damage(tmp_path)
    model = base()
    before = kinds(model)
    with pytest.raises(CheckpointError, match=message):
        open_bottlenecks(model, tmp_path)
    assert kinds(model) == before and BottleneckLinear not in before
