"""Oracle: the full gradients that autograd makes of a float64 copy."""

import random
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from transformers import AlbertConfig, AlbertForSequenceClassification, AutoModelForCausalLM, BitsAndBytesConfig

from spectral_ft.errors import DataError, PlanError
from spectral_ft.probe.gradients import probe_gradients
from spectral_ft.probe.sketch import projection
from tests.conftest import EMBEDDED
from tests.models.tiny_models import MODEL_TYPES
from tests.probe.small_models import Toy, batch_of, full_gradients, linear_names, small_model

K = 6


def probed(model, batches, names, *, norms=True, sketch_dim=K):
    return probe_gradients(model, batches, names, norms=norms, sketch_dim=sketch_dim, seed=3)


def check(found, gradients):
    """`gradients`: for each batch, module name to G."""
    for name in gradients[0]:
        per_batch = [own[name].double() for own in gradients]
        expected = np.mean([float(g.square().mean()) for g in per_batch])
        assert found.norms[name] == pytest.approx(expected, rel=1e-5, abs=1e-20), name
        d_out, d_in = per_batch[0].shape
        p_out, p_in = (projection(d, side, sketch_dim=K, seed=3) for d, side in ((d_out, "out"), (d_in, "in")))
        sketch = p_out.T @ sum(per_batch).numpy() @ p_in
        np.testing.assert_allclose(found.sketches[name], sketch, atol=1e-5 * np.abs(sketch).max() + 1e-12, err_msg=name)
        assert found.sketches[name].dtype == found.half_sketches[name].dtype == np.float32


def state_of(model):
    return (
        [(p.requires_grad, p.grad) for p in model.parameters()],
        [m.training for m in model.modules()],
        [len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules()],
    )


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_norms_and_sketches_are_those_of_the_full_gradients(model_type):
    model = small_model(model_type).requires_grad_(False).train()
    names, batches = linear_names(model), [batch_of(model_type, seed=seed) for seed in range(2)]
    before = state_of(model)
    found = probed(model, batches, names)
    assert state_of(model) == before
    assert list(found.norms) != [] and set(found.norms) == set(found.sketches) == set(names)
    check(found, [full_gradients(model, batch, names) for batch in batches])


def test_a_module_that_is_called_several_times_adds_up():
    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "embedding_size": 8, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 3}
    model = AlbertForSequenceClassification(AlbertConfig(**sizes, num_attention_heads=2)).requires_grad_(False)
    names, batches = linear_names(model), [batch_of("albert", seed=0)]
    assert len(names) == 6  # of one block, used three times
    check(probed(model, batches, names), [full_gradients(model, batch, names) for batch in batches])


def test_a_call_that_the_loss_does_not_see_adds_nothing():
    def loss(linears, x):
        linears["a"](3 * x)
        return linears["a"](x).square().sum()

    model, inputs = Toy(loss, a=(4, 5)), torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    found = probed(model, [{"inputs": inputs}] * 2, ["linears.a"])
    check(found, [{"linears.a": full_gradients_of_toy(model, inputs)["linears.a"]}] * 2)


def full_gradients_of_toy(model, inputs):
    weights = {f"linears.{name}": m.weight for name, m in model.linears.items()}
    for weight in weights.values():
        weight.requires_grad_(True)
    gradients = torch.autograd.grad(model(inputs).loss, list(weights.values()))
    model.requires_grad_(False)
    return dict(zip(weights, gradients, strict=True))


def test_a_batch_that_misses_a_module_counts_as_zero():
    model = Toy(lambda m, x: (m["a"](x) if x[0] > 0 else m["b"](x)).square().sum(), a=(4, 4), b=(4, 4))
    inputs = [torch.ones(4), -torch.ones(4)]
    found = probed(model, [{"inputs": x} for x in inputs], ["linears.a", "linears.b"])
    for x, name in zip(inputs, ("linears.a", "linears.b"), strict=True):
        weight = model.get_submodule(name).weight.requires_grad_(True)
        (gradient,) = torch.autograd.grad(model(x).loss, weight)
        assert found.norms[name] == pytest.approx(float(gradient.square().mean()) / 2, rel=1e-5)
    assert not found.half_sketches["linears.b"].any() and found.half_sketches["linears.a"].any()


def test_parameters_that_are_trained_keep_their_grad():
    model = small_model("llama").train()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    names, batch = linear_names(model), batch_of("llama", seed=0)
    check(probed(model, [batch], names), [full_gradients(model, batch, names)])
    assert all(p.requires_grad and (p.grad == 1).all() for p in model.parameters())


def test_it_works_where_the_caller_wants_no_gradients():
    model, batch = small_model("llama"), batch_of("llama", seed=0)
    names = linear_names(model)
    with torch.no_grad():
        found = probed(model, [batch], names)
        assert not torch.is_grad_enabled()
    check(found, [full_gradients(model, batch, names)])


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_model_has_the_gradients_of_what_it_stands_for(bits):
    from bitsandbytes.functional import dequantize_4bit

    options = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.float32}
    config = BitsAndBytesConfig(**options if bits == 4 else {"load_in_8bit": True})
    loaded = {"dtype": torch.float32, "device_map": {"": "cpu"}}
    packed = AutoModelForCausalLM.from_pretrained(EMBEDDED, quantization_config=config, **loaded).requires_grad_(False)
    plain = AutoModelForCausalLM.from_pretrained(EMBEDDED, **loaded)
    names, batches = linear_names(packed), [batch_of("llama", seed=seed, tokens=16) for seed in range(2)]
    for name in names:
        weight = packed.get_submodule(name).weight
        values = dequantize_4bit(weight.data, weight.quant_state) if bits == 4 else weight * weight.SCB[:, None] / 127
        plain.get_submodule(name).weight.data = values.float().reshape(plain.get_submodule(name).weight.shape)
    found, gradients = probed(packed, batches, names), [full_gradients(plain, batch, names) for batch in batches]
    assert all(not p.requires_grad for p in packed.parameters())
    assert [m.training for m in packed.modules()] == [False] * len(list(packed.modules()))
    if bits == 4:
        check(found, gradients)
    else:  # bitsandbytes rounds what the matrices read as well
        expected = [np.mean([float(own[name].square().mean()) for own in gradients]) for name in names]
        np.testing.assert_allclose([found.norms[name] for name in names], expected, rtol=0.1)


def test_a_bfloat16_model_is_measured_in_float32():
    model, batches = small_model("llama").to(torch.bfloat16), [batch_of("llama", seed=seed) for seed in range(2)]
    names = linear_names(model)
    found, twin = probed(model, batches, names), probed(model.float(), batches, names)
    assert all(sketch.dtype == np.float32 for sketch in found.sketches.values())
    for name in names:
        assert found.norms[name] == pytest.approx(twin.norms[name], rel=0.1)


def test_the_half_is_the_leading_part_over_every_other_batch():
    model = small_model("llama")
    names, batches = linear_names(model), [batch_of("llama", seed=seed) for seed in range(5)]
    found = probed(model, batches, names, norms=False, sketch_dim=7)
    single = [probed(model, [batch], names, norms=False, sketch_dim=7).sketches for batch in batches]
    for name in names:
        expected = sum(single[number][name] for number in (0, 2, 4))[:3, :3]
        np.testing.assert_allclose(found.half_sketches[name], expected, atol=1e-6 * np.abs(expected).max())
        assert found.half_sketches[name].shape == (3, 3)
    assert found.norms == {}


def test_the_order_of_names_and_their_company_do_not_matter():
    model, batches = small_model("phi3"), [batch_of("phi3", seed=seed) for seed in range(2)]
    names = linear_names(model)
    shuffled = random.Random(0).sample(names, len(names))
    found, other = probed(model, batches, names), probed(model, batches, [*shuffled, *names[:2]])
    alone = probed(model, batches, names[-1:])
    assert found.norms == other.norms and found.norms[names[-1]] == alone.norms[names[-1]]
    for name in names:
        np.testing.assert_array_equal(found.sketches[name], other.sketches[name])
    np.testing.assert_array_equal(found.sketches[names[-1]], alone.sketches[names[-1]])


def test_only_what_was_asked_for_is_made():
    model, batch = small_model("llama"), batch_of("llama", seed=0)
    found = probed(model, [batch], linear_names(model), sketch_dim=None)
    assert found.sketches == found.half_sketches == {} and len(found.norms) == len(linear_names(model))


def test_a_matrix_takes_at_most_20_kib():
    model, batch = small_model("llama"), batch_of("llama", seed=0)
    found = probed(model, [batch], linear_names(model), sketch_dim=64)  # above all sides, which are 4 to 24
    for name in linear_names(model):
        assert found.sketches[name].nbytes + found.half_sketches[name].nbytes <= 20 * 2**10
        assert np.linalg.matrix_rank(found.sketches[name]) <= 8


@pytest.mark.parametrize("norms", [True, False])
def test_of_what_modules_read_only_the_lowest_s_is_kept(norms):
    model, read, counts = small_model("llama").requires_grad_(False), [], []
    names = [f"model.layers.{block}.mlp.down_proj" for block in (0, 1)]
    for name in names:
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _, x, y: read.append(StorageWeakRef(x[0].untyped_storage())))
    model.register_forward_hook(lambda *_: counts.append(sum(not one.expired() for one in read)))
    probed(model, [batch_of("llama", seed=0)], names, norms=norms)
    assert counts == [1]  # the other block is computed again


@pytest.mark.parametrize("first", [0, 1])
def test_nothing_is_computed_below_the_lowest_matrix(first):
    model, asked = small_model("llama").requires_grad_(False), {}
    for number, block in enumerate(model.model.layers):
        block.self_attn.q_proj.register_forward_hook(lambda _, x, y, n=number: asked.update({n: x[0].requires_grad}))
    names = [name for name in linear_names(model) if int(name.split(".")[2]) >= first]
    probed(model, [batch_of("llama", seed=0)], names)
    assert asked == {0: False, 1: first == 0}


def test_an_input_that_is_changed_in_place_spoils_no_sketch_and_is_refused_for_norms():
    def loss(linears, x):
        x = x * 1
        first = linears["a"](x)
        x += 1
        return first.square().sum() + linears["b"](x).square().sum()

    model, inputs = Toy(loss, a=(4, 5), b=(4, 5)), torch.randn(7, 4, generator=torch.Generator().manual_seed(0))
    names = ["linears.a", "linears.b"]
    found = probed(model, [{"inputs": inputs}], names, norms=False)
    for name, x in zip(names, (inputs, inputs + 1), strict=True):
        gradient = (2 * model.get_submodule(name)(x)).T @ x
        p_out, p_in = (projection(d, side, sketch_dim=K, seed=3) for d, side in ((5, "out"), (4, "in")))
        np.testing.assert_allclose(found.sketches[name], p_out.T @ gradient.numpy() @ p_in, rtol=1e-4, atol=1e-4)
    with pytest.raises(PlanError, match=r"what linears\.a reads is changed in place after it was read"):
        probed(model, [{"inputs": inputs}], names)


@pytest.mark.parametrize("stage", ["forward", "backward"])
def test_nothing_is_left_behind_by_an_exception(stage):
    model = small_model("llama").requires_grad_(False)
    model.model.layers[0].train()

    def stop(*_):
        raise KeyboardInterrupt

    def stop_later(module, arguments, output):
        if output.requires_grad:
            output.register_hook(stop)

    model.model.layers[1].mlp.register_forward_hook(stop if stage == "forward" else stop_later)
    before = state_of(model)
    with pytest.raises(KeyboardInterrupt):
        probed(model, [batch_of("llama", seed=0)], linear_names(model))
    assert state_of(model) == before


def test_errors_name_what_is_wrong():
    model, batch = small_model("llama"), batch_of("llama", seed=0)
    names = linear_names(model)
    for wrong in ("model.layers.0.self_attn", "model.layers.9.mlp.up_proj", "model.embed_tokens"):
        with pytest.raises(PlanError, match=rf"{wrong} is no linear module of this LlamaForCausalLM.*has 15 linear"):
            probed(model, [batch], [*names, wrong])
    with pytest.raises(DataError, match="got no calibration batch"):
        probed(model, [], names)
    with pytest.raises(DataError, match=r"batch 1 has no labels, only input_ids, attention_mask: there is no loss"):
        probed(model, [batch, {key: value for key, value in batch.items() if key != "labels"}], names)
    masked = batch | {"labels": torch.full_like(batch["labels"], -100)}
    with pytest.raises(DataError, match="the loss of calibration batch 2 is nan: its labels are all masked"):
        probed(model, [batch, batch, masked], names)


def test_a_module_without_a_gradient_is_named():
    model = Toy(lambda m, x: m["a"](x).sum() + m["b"](x).detach().sum(), a=(4, 4), b=(4, 4), c=(4, 4))
    batch = {"inputs": torch.ones(2, 4)}
    with pytest.raises(PlanError, match=r"linears\.b got no gradient in 2 calibration batches \(2 such of 3\)"):
        probed(model, [batch] * 2, ["linears.a", "linears.b", "linears.c"])
    with pytest.raises(PlanError, match=r"linears\.b got no gradient in 1 .*\(1 such of 1\): the loss of this Toy"):
        probed(model, [batch], ["linears.b"])
    with pytest.raises(PlanError, match=r"linears\.c got no gradient"):
        probed(model, [batch], ["linears.c"])
    model.linears["a"].requires_grad_(True)  # the loss has a gradient, though not one that was asked for
    with pytest.raises(PlanError, match=r"linears\.c got no gradient"):
        probed(model, [batch], ["linears.c"])


@pytest.mark.parametrize("asked", [{"norms": False}, {"sketch_dim": None}])
def test_a_gradient_that_is_not_finite_is_named(asked):
    model = Toy(lambda m, x: (0 * m["a"](x).sum()).sqrt() + m["b"](x).sum(), a=(4, 4), b=(4, 4))
    with pytest.raises(DataError, match=r"the gradient of linears\.a is not finite"):
        probed(model, [{"inputs": torch.ones(2, 4)}], ["linears.b", "linears.a"], **asked)


def test_the_progress_bar_stays_away_from_files(capfd):
    probed(small_model("llama"), [batch_of("llama", seed=0)], linear_names(small_model("llama")))
    assert capfd.readouterr() == ("", "")


# ---- activations


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "t5", "bert"])
def test_recomputed_blocks_change_no_bit_and_keep_little(model_type, monkeypatch):
    model, kept = small_model(model_type), []
    names, batch = linear_names(model), batch_of(model_type, seed=0)

    def found():
        entries = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (entries.append(t.numel()), t)[1], lambda t: t):
            probed = probe_gradients(model, [batch], names, norms=True, sketch_dim=4, seed=0)
        kept.append(sum(entries))
        return probed

    recomputed = found()
    assert not [module for module in model.modules() if "forward" in vars(module)]
    monkeypatch.setattr("spectral_ft.probe.gradients.recomputed_blocks", lambda model: nullcontext(set()))
    plain = found()
    assert recomputed.norms == plain.norms and len(plain.norms) == len(names)
    for name in names:
        np.testing.assert_array_equal(recomputed.sketches[name], plain.sketches[name])
        np.testing.assert_array_equal(recomputed.half_sketches[name], plain.half_sketches[name])
    assert kept[0] < kept[1]
