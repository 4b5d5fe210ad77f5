"""Oracles: PEFT called by hand, and the singular vectors of what the matrices read, by numpy."""

import random

import numpy as np
import pytest
import torch
from peft import EvaConfig, LoraConfig, get_eva_state_dict

from spectral_ft.errors import DataError, PlanError
from spectral_ft.probe import inputs
from tests.probe.small_models import batch_of, linear_names, small_model

BATCHES = {model_type: [batch_of(model_type, seed=seed, examples=6) for seed in range(3)] for model_type in ("llama",)}
LLAMA = BATCHES["llama"]


def principal(model, batches, names, *, rank=2, rho=2.0, tau=0.5, whiten=False):
    return inputs.principal_inputs(model, batches, names, rank=rank, rho=rho, tau=tau, whiten=whiten)


def by_hand(model, batches, names, *, rank=2, rho=2.0, tau=0.5, whiten=False):
    config = LoraConfig(
        r=rank, target_modules=names, init_lora_weights="eva", eva_config=EvaConfig(rho=rho, tau=tau, whiten=whiten)
    )
    return get_eva_state_dict(model, batches, config, show_progress_bar=False)


def same_inputs(model, name):
    """The modules of a block that read one tensor."""
    return [other for other in linear_names(model) if other.rpartition(".")[0] == name.rpartition(".")[0]]


def leading_direction(model, batches, name, mask):
    """Of the centred vectors that a module reads where the mask is true, by numpy."""
    read = []
    handle = model.get_submodule(name).register_forward_hook(lambda _, x, y: read.append(x[0]))
    with torch.no_grad():
        for batch in batches:
            model.eval()(**batch)
    handle.remove()
    rows = np.concatenate([x[mask(batch)].numpy() for x, batch in zip(read, batches, strict=True)]).astype(np.float64)
    return np.linalg.svd(rows - rows.mean(axis=0))[2][0]


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_the_rows_are_those_of_peft(model_type, masked):
    model = small_model(model_type)
    names = linear_names(model)
    batches = [{key: value for key, value in batch.items() if masked or key == "input_ids"} for batch in LLAMA]
    found, expected = principal(model, batches, names), by_hand(model, batches, names)
    assert list(found) == names
    for name in names:
        assert found[name].dtype == np.float32
        np.testing.assert_array_equal(found[name], expected[name].float().numpy())
    assert sum(len(rows) for rows in found.values()) == 2 * len(names)
    assert max(len(rows) for rows in found.values()) <= 4


def test_a_matrix_may_get_no_direction():
    model = small_model("llama")
    found = principal(model, LLAMA, linear_names(model), rank=1, rho=4.0)
    empty = [name for name, rows in found.items() if not len(rows)]
    assert empty
    assert all(found[name].shape == (0, model.get_submodule(name).in_features) for name in empty)
    assert sum(len(rows) for rows in found.values()) == len(found)


def test_the_first_row_is_the_leading_singular_vector_of_the_inputs():
    model, name = small_model("llama"), "model.layers.0.mlp.down_proj"
    found = principal(model, LLAMA, [name], tau=0.999)[name]
    expected = leading_direction(model, LLAMA, name, lambda batch: batch["labels"] != -100)
    assert abs(found[0] @ expected) > 0.99
    np.testing.assert_allclose(found @ found.T, np.eye(len(found)), atol=1e-5)


def test_neither_order_nor_seed_nor_a_second_call_matter():
    model = small_model("llama").train()
    names = linear_names(model)
    first = principal(model, LLAMA, names)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    second = principal(model, LLAMA, random.Random(0).sample(names, len(names)))
    assert torch.equal(torch.get_rng_state(), state) and all(module.training for module in model.modules())
    for name in names:
        np.testing.assert_array_equal(first[name], second[name])


def test_whitening_is_applied_once_to_what_several_matrices_read():
    model, name = small_model("llama"), "model.layers.1.self_attn.q_proj"
    together = [other for other in same_inputs(model, name) if not other.endswith("o_proj")]
    options = {"rho": 1.0, "tau": 0.0}  # equal ranks, and two passes whoever reads
    plain, white = (principal(model, LLAMA, together, whiten=whiten, **options) for whiten in (False, True))
    alone, peft = principal(model, LLAMA, [name], whiten=True, **options), by_hand(model, LLAMA, together, **options)
    once = by_hand(model, LLAMA, [name], whiten=True, **options)[name].float().numpy()
    np.testing.assert_array_equal(alone[name], once)
    thrice = by_hand(model, LLAMA, together, whiten=True, **options)[name].norm(dim=1).numpy()
    assert len(together) == 3 and len(peft) == 3
    np.testing.assert_allclose(thrice, np.linalg.norm(once, axis=1) ** 3, rtol=1e-5)  # why it is corrected
    for other in together:
        np.testing.assert_allclose(white[other], once, rtol=1e-5, atol=1e-6)
        lengths = np.linalg.norm(white[other], axis=1, keepdims=True)
        np.testing.assert_allclose(white[other] / lengths, plain[other], atol=1e-5)


def test_whitening_is_applied_once_where_ranks_differ():
    # of singular values 4, 9, 16; rows 0 and 1 were divided for two matrices
    shared = torch.diag(torch.tensor([1 / 4, 1 / 9, 1 / 4], dtype=torch.float64))
    rows = {"a": shared[:2], "b": shared[:3], "c": shared[:0], "d": torch.eye(3)[:1] / 5}
    found = inputs._whitened_once(rows)
    expected = np.diag([1 / 2, 1 / 3, 1 / 4])
    np.testing.assert_allclose(found["a"], expected[:2])
    np.testing.assert_allclose(found["b"], expected)
    assert found["c"].shape == (0, 3)
    np.testing.assert_allclose(found["d"], np.eye(3)[:1] / 5)


def test_a_classifier_counts_all_tokens_of_its_mask():
    model, batches = small_model("bert"), [batch_of("bert", seed=seed, examples=7) for seed in range(2)]
    name = "bert.encoder.layer.1.attention.self.key"
    found = principal(model, batches, [name], tau=0.999)[name]
    expected = leading_direction(model, batches, name, lambda batch: batch["attention_mask"].bool())
    assert abs(found[0] @ expected) > 0.99


@pytest.mark.parametrize("targets", [5, 7])
@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("encoder.block.1.layer.0.SelfAttention.q", "source"),
        ("decoder.block.1.layer.1.EncDecAttention.k", "source"),
        ("decoder.block.1.layer.1.EncDecAttention.q", "target"),
        ("decoder.block.0.layer.2.DenseReluDense.wo", "target"),
    ],
)
def test_an_encoder_decoder_reads_sources_and_targets(name, side, targets):
    model = small_model("t5").eval()
    batches = [batch_of("t5", seed=seed, examples=6, targets=targets) for seed in range(2)]  # of 7 source tokens
    for batch in batches:
        batch["attention_mask"][3:, 2:] = 0
        batch["labels"][:4] = -100
    found = principal(model, batches, [name], tau=0.999)[name]
    masks = {"source": lambda batch: batch["attention_mask"].bool(), "target": lambda batch: batch["labels"] != -100}
    assert abs(found[0] @ leading_direction(model, batches, name, masks[side])) > 0.99


def test_nothing_is_printed(capfd):
    model = small_model("llama")
    principal(model, LLAMA, linear_names(model))
    assert capfd.readouterr() == ("", "")


def hooks(model):
    return [list(module._forward_hooks) for module in model.modules()]


def test_directions_that_do_not_settle_are_an_error_and_leave_no_hooks(monkeypatch):
    monkeypatch.setattr(inputs, "MAX_STEPS", 6)
    model = small_model("llama").train()
    model.lm_head.register_forward_hook(lambda *_: None)
    names, before, asked = linear_names(model), hooks(model), []
    model.register_forward_pre_hook(lambda *_: asked.append(1))
    with pytest.raises(DataError, match="have not settled after 6 batches: with tau=1 they turn on"):
        principal(model, LLAMA, names, tau=1.0)
    assert hooks(model) == before and all(module.training for module in model.modules())
    assert len(asked) == 7  # one to see who reads the same


def test_too_few_tokens_are_an_error_with_numbers():
    model = small_model("llama")
    short = {key: value[:1, :5] for key, value in LLAMA[1].items()} | {"labels": torch.tensor([[-100, -100, 4, 5, 6]])}
    short["attention_mask"] = torch.ones_like(short["labels"])
    for batches in ([short], [LLAMA[0], short]):
        message = r"has 3 tokens that count for model\.layers\.0\.\S+, fewer than the 4 directions"
        with pytest.raises(DataError, match=message):
            principal(model, batches, linear_names(model), tau=0.999)
        assert not any(hooks(model))
    assert principal(model, [short, short], linear_names(model), rank=1, tau=0.0)


def test_errors_name_what_is_wrong():
    model = small_model("llama")
    names = linear_names(model)
    with pytest.raises(DataError, match="got no calibration batch"):
        principal(model, [], names)
    with pytest.raises(PlanError, match=r"model\.layers\.5\.mlp is no linear module of this LlamaForCausalLM"):
        principal(model, LLAMA, [*names, "model.layers.5.mlp"])
    with pytest.raises(PlanError, match=r"q_proj reads 8 numbers a token, fewer than the 9 directions"):
        principal(model, LLAMA, names, rank=3, rho=3.0)
    with pytest.raises(
        PlanError, match=r"classifier reads a tensor of shape \(3, 8\), not .* each of the \(3, 7\) tokens"
    ):
        principal(small_model("bert"), [batch_of("bert", seed=0)], ["classifier"], rank=1)
