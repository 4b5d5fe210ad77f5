"""What a training step takes; oracles: counts by hand, and what torch's allocator records in real steps on the CPU."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from spectral_ft.errors import DataError, PlanError
from spectral_ft.models.loading import load_model
from spectral_ft.models.quantization import Nf4
from spectral_ft.training.footprint import FootprintNotEstimated, estimate_footprint
from tests.conftest import EMBEDDED
from tests.oracles import law

FIVE = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]
WIDE = AutoConfig.for_model(
    "llama",
    vocab_size=4096,
    hidden_size=384,
    intermediate_size=1024,
    num_hidden_layers=12,
    num_attention_heads=6,
    num_key_value_heads=2,
)
SMALL = {"vocab_size": 256, "hidden_size": 96, "intermediate_size": 256, "num_attention_heads": 4}
IDS = torch.zeros(4, 128, dtype=torch.long)
TEXT = {"input_ids": IDS, "labels": IDS}
MASK = torch.ones_like(IDS)
MASK[0, 100:] = 0
PADDED = {**TEXT, "attention_mask": MASK}


def tiny_config():
    return AutoConfig.from_pretrained(EMBEDDED)


def tiny_on_meta(**options):
    """The embedded model in float32 without weights, adapted; its own parameters."""
    with torch.device("meta"):
        return adapted(AutoModelForCausalLM.from_config(tiny_config(), dtype=torch.float32), **options)


def adapted(model, *, targets=None, r=8, **options):
    base = dict(model.named_parameters())
    return get_peft_model(model, LoraConfig(r=r, target_modules=targets or FIVE, **options)), base


def estimate(model, batch, base, *, quantized=None, optimizer_bytes=8, autocast=None):
    return estimate_footprint(
        model, batch, base=base, quantized=quantized or {}, optimizer_bytes=optimizer_bytes, autocast=autocast
    )


def recorded_peak(work):
    """The most bytes that torch's CPU allocator had given out at a time during the work."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorder:
        work()
    events = [event for event in recorder.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


def measured_activations(model, batch, autocast=None):
    """Peak of a real forward and backward beside the parameters, each gradient dropped when it is there."""
    model.train()
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(lambda p: setattr(p, "grad", None))

    def step():
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            loss = model(**batch).loss
        loss.backward()

    step()  # what is allocated once, such as the masks a library keeps
    return recorded_peak(step)


def saved_for_backward(model, batch):
    """Bytes of the distinct storages that autograd keeps after a forward pass, parameters and batch left out."""
    held = {}

    def keep(tensor):
        held[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model.train()(**batch).loss
    known = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), *batch.values())}
    assert loss.requires_grad
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in held.items() if pointer not in known)


class Squash(torch.nn.Module):
    """loss = sum tanh(x W'): one matrix, whose memory can be counted by hand."""

    def __init__(self, width, **options):
        super().__init__()
        self.linear = torch.nn.Linear(width, width, bias=False, **options)

    def forward(self, x):
        return type("Output", (), {"loss": torch.tanh(self.linear(x)).sum()})


@settings(law, max_examples=15)
@given(rows=st.integers(64, 4096), width=st.integers(1, 64))
def test_one_matrix_takes_what_a_count_by_hand_says(rows, width):
    model = Squash(width, device="meta")
    found = estimate(model, {"x": torch.empty(rows, width, device="meta")}, dict(model.named_parameters()))
    assert dataclasses.astuple(found)[:4] == (4 * width**2, 0, 4 * width**2, 8 * width**2)
    # W x and its tanh, then the tanh and the gradient of W x; the loss and its gradient are scalars.
    assert 0 <= found.activations - 2 * 4 * rows * width <= 8


def test_parts_that_are_counted():
    model, base = tiny_on_meta(r=3)
    embedding, hidden, wide = 166 * 192, 192, 512
    blocks = 4 * (4 * hidden**2 + 3 * hidden * wide + 2 * hidden)
    lora = 4 * 3 * (3 * (hidden + hidden) + 2 * (hidden + wide))
    found = estimate(model, TEXT, base, optimizer_bytes=2)
    assert found.base == 4 * (embedding + blocks + hidden)  # the head is the embedding: once
    assert (found.adapters, found.gradients, found.optimizer) == (4 * lora, 4 * lora, 2 * lora)
    assert found.total == found.base + found.adapters + found.gradients + found.optimizer + found.activations


def test_a_frozen_adapter_has_no_gradient_and_a_trained_base_no_adapter():
    model, base = tiny_on_meta()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layers.3.self_attn.q_proj" in name and "base_layer" not in name and "lora" in name)
    found = estimate(model, TEXT, base)
    assert found.gradients == 4 * 8 * (192 + 192) < found.adapters
    whole = AutoModelForCausalLM.from_config(tiny_config(), dtype=torch.bfloat16)
    plain = estimate(whole, TEXT, dict(whole.named_parameters()))
    assert plain.adapters == 0
    assert plain.gradients == plain.base == 2 * whole.num_parameters()


def test_parts_are_those_of_a_real_training_with_accumulation():
    torch.manual_seed(0)
    model, base = adapted(AutoModelForCausalLM.from_config(tiny_config(), dtype=torch.float32))
    blueprint, blueprint_base = tiny_on_meta()
    found = estimate(blueprint, TEXT, blueprint_base)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained)

    def train():
        for _ in range(2):
            optimizer.zero_grad()
            for _ in range(2):
                model(**TEXT).loss.backward()
            optimizer.step()

    peak = recorded_peak(train)
    assert found.base == sum(parameter.nbytes for parameter in base.values())
    assert found.base + found.adapters == sum(parameter.nbytes for parameter in model.parameters())
    assert found.gradients == sum(parameter.grad.nbytes for parameter in trained)
    assert found.optimizer == sum(s["exp_avg"].nbytes + s["exp_avg_sq"].nbytes for s in optimizer.state.values())
    assert peak == pytest.approx(found.total - found.base - found.adapters, rel=0.005)


def llama(**options):
    config = AutoConfig.for_model("llama", num_hidden_layers=2, num_key_value_heads=2, **SMALL)
    return adapted(AutoModelForCausalLM.from_config(config), **options)


def whole():
    plain = llama()[0].unload().requires_grad_(True)
    return plain, dict(plain.named_parameters())


def checkpointed(**options):
    # A small vocabulary, so that the peak is in the blocks and not in the loss.
    model, base = llama(**options)
    model.activation_checkpointing_enable()
    return model, base


def gpt2():
    config = AutoConfig.for_model("gpt2", n_embd=96, n_layer=2, n_head=4, vocab_size=256, attn_pdrop=0.0)
    return adapted(AutoModelForCausalLM.from_config(config), targets=["c_attn"], fan_in_fan_out=True)


def experts():
    config = AutoConfig.for_model(
        "qwen3_moe",
        **SMALL | {"num_key_value_heads": 2, "head_dim": 24, "num_hidden_layers": 2, "moe_intermediate_size": 64},
        num_experts=4,
        num_experts_per_tok=2,
    )
    return adapted(AutoModelForCausalLM.from_config(config), targets=["q_proj", "v_proj"])


def bert(dropout=0.0):
    config = AutoConfig.for_model("bert", num_hidden_layers=2, attention_probs_dropout_prob=dropout, **SMALL)
    return adapted(
        AutoModelForSequenceClassification.from_config(config), targets=["query", "value"], task_type="SEQ_CLS"
    )


def t5():
    sizes = {"vocab_size": 256, "d_model": 96, "d_kv": 24, "num_heads": 4, "d_ff": 256, "num_layers": 2}
    config = AutoConfig.for_model("t5", dropout_rate=0.0, decoder_start_token_id=0, **sizes)
    return adapted(AutoModelForSeq2SeqLM.from_config(config), targets=["q", "v"])


def prefix():
    model, base = llama()
    return get_peft_model(model.unload(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=10)), base


def in_half(make):
    return lambda: adapted(AutoModelForCausalLM.from_config(make, dtype=torch.bfloat16))


CASES = {
    "embedded": (lambda: adapted(AutoModelForCausalLM.from_config(tiny_config(), dtype=torch.float32)), TEXT, None),
    "half": (in_half(tiny_config()), TEXT, None),
    "mixed": (in_half(tiny_config()), TEXT, torch.bfloat16),
    "padded": (llama, PADDED, None),
    "dropout": (lambda: llama(lora_dropout=0.1), TEXT, None),
    "dora": (lambda: llama(use_dora=True), TEXT, None),
    "upper": (lambda: llama(layers_to_transform=[1]), TEXT, None),
    "checkpointed": (checkpointed, PADDED, None),
    "checkpointed-upper": (lambda: checkpointed(layers_to_transform=[1]), PADDED, None),
    "whole": (whole, {"input_ids": IDS[:1, :8].clone(), "labels": IDS[:1, :8].clone()}, None),  # gradients dominate
    "prefix": (prefix, TEXT, None),
    "experts": (experts, TEXT, None),
    "gpt2": (gpt2, TEXT, None),
    "bert": (bert, {"input_ids": IDS, "attention_mask": MASK, "labels": IDS[:, 0].clone()}, None),
    "t5": (t5, {"input_ids": IDS, "attention_mask": MASK, "labels": IDS[:, :32].clone()}, None),
}


@pytest.mark.parametrize("case", CASES)
def test_activations_are_those_of_a_real_step(case):
    make, batch, autocast = CASES[case]
    torch.manual_seed(0)
    model, base = make()
    found = estimate(model, batch, base, autocast=autocast)
    within = 0.03 if case == "half" else 0.005  # bfloat16 kernels of a CPU take float32 workspaces
    assert measured_activations(model, batch, autocast) == pytest.approx(found.activations, rel=within)


def test_activations_of_twelve_blocks_are_what_autograd_saved_and_the_loss():
    model, base = adapted(AutoModelForCausalLM.from_config(WIDE))
    found = estimate(model, TEXT, base).activations
    logits = 4 * IDS.numel() * model.config.vocab_size
    # Backward begins with the gradient of the log-probabilities and that of the logits beside all that was saved.
    assert saved_for_backward(model, TEXT) + 2 * logits == pytest.approx(found, rel=0.002)
    assert measured_activations(model, TEXT) == pytest.approx(found, rel=0.002)


def test_a_plan_for_upper_blocks_saves_nothing_below():
    every, upper = (
        estimate(*(model, TEXT, base)).activations for model, base in (llama(), llama(layers_to_transform=[1]))
    )
    assert upper < 0.6 * every


def test_attention_is_counted_without_its_probabilities():
    def of(length, dropout):
        ids = torch.zeros(2, length, dtype=torch.long)
        model, base = bert(dropout)
        return estimate(model, {"input_ids": ids, "labels": ids[:, 0]}, base).activations

    long = of(512, 0.1)
    assert long == of(512, 0.0)
    assert long == pytest.approx(2 * of(256, 0.1), rel=0.02)


@pytest.mark.parametrize(("double", "bits"), [(True, 4 + 8 / 64 + 32 / 64 / 256), (False, 4 + 32 / 64)])
def test_a_quantized_base_takes_what_bitsandbytes_packs(double, bits):
    real = load_model(EMBEDDED, quantization=Nf4(double), dtype="float32", trust_remote_code=False)
    packed = whole = 0
    for parameter in real.parameters():
        whole += parameter.nbytes
        if state := getattr(parameter, "quant_state", None):
            packed += 1
            # The table of 16 codes is a constant; with double quantization there is one of 256 for the scales too.
            whole += state.absmax.nbytes + (state.state2.absmax.nbytes if state.nested else 0)
    model, base = tiny_on_meta()
    names = [name.removesuffix(".weight") for name in base if "_proj" in name]
    assert len(names) == packed
    found = estimate(model, TEXT, base, quantized=dict.fromkeys(names, bits))
    assert found.base == pytest.approx(whole, rel=0.001)
    # While a matrix is used it stands beside its codes in float32: the largest of them is counted.
    assert found.activations == estimate(model, TEXT, base).activations + 4 * 192 * 512
    adapted_real, _ = adapted(real)
    assert measured_activations(adapted_real, TEXT) == pytest.approx(found.activations, rel=0.02)


@pytest.mark.parametrize("case", ["prefix", "dropout"])
def test_the_model_is_only_read_and_its_mode_does_not_matter(case):
    model, base = CASES[case][0]()
    model.eval()
    before = model(**TEXT).loss
    first = estimate(model, TEXT, base)
    assert not any(module.training for module in model.modules())
    after = model(**TEXT).loss
    assert type(after) is torch.Tensor
    assert torch.equal(before, after)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert estimate(model.train(), TEXT, base) == first


def test_a_model_without_weights_gives_the_same_estimate():
    blueprint, blueprint_base = tiny_on_meta()
    model, base = CASES["embedded"][0]()
    meta = {name: tensor.to("meta") for name, tensor in TEXT.items()}
    assert estimate(blueprint, meta, blueprint_base) == estimate(model, TEXT, base)
    assert all(parameter.is_meta for parameter in blueprint.parameters())


@pytest.mark.slow
def test_seven_billion_parameters_need_no_weights():
    config = AutoConfig.for_model("llama")  # its defaults are LLaMA-7B's
    with torch.device("meta"):
        model, base = adapted(AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16), r=32)
    model.activation_checkpointing_enable()
    found = estimate(model, {"input_ids": IDS, "labels": IDS}, base, autocast=torch.bfloat16)
    assert (found.base, found.adapters) == (2 * 6_738_415_616, 4 * 56_098_816)  # the published counts
    assert found.optimizer == 8 * 56_098_816
    block_inputs = 32 * 2 * IDS.numel() * 4096
    assert block_inputs < found.activations < 6 * block_inputs


def test_nothing_to_train_is_refused():
    model, base = tiny_on_meta()
    with pytest.raises(PlanError, match="no parameter of PeftModel is trainable"):
        estimate(model.requires_grad_(False), TEXT, base)


def test_an_unknown_quantized_module_is_refused():
    model, base = tiny_on_meta()
    names = {"model.layers.0.self_attn.q_proj": 4.5, "model.layers.9.self_attn.q_proj": 4.5}
    with pytest.raises(PlanError, match=r"1 of 2 quantized modules .* first is 'model.layers.9.self_attn.q_proj'"):
        estimate(model, TEXT, base, quantized=names)


def test_a_batch_without_labels_is_refused():
    model, base = tiny_on_meta()
    with pytest.raises(DataError, match="the batch has input_ids and so no loss"):
        estimate(model, {"input_ids": IDS}, base)


def test_code_that_reads_values_is_refused():
    class Reading(Squash):
        def forward(self, x):
            return super().forward(x if x.sum() > 0 else -x)

    model = Reading(4)
    with pytest.raises(
        FootprintNotEstimated, match="the training memory of Reading cannot be estimated from its shapes"
    ):
        estimate(model, {"x": torch.ones(3, 4)}, dict(model.named_parameters()))


# ---- arithmetic, and how far backward goes


def test_operations_are_those_of_torchs_own_counter() -> None:
    model, base = adapted(AutoModelForCausalLM.from_config(tiny_config(), dtype=torch.float32))
    with FlopCounterMode(display=False) as counter:
        model.train()(**TEXT).loss.backward()
    attention = 4 * 4 * 128 * 128 * 192 * 4  # fused on a CPU, which that counter leaves out: 2 products a block ...
    found = estimate(model, TEXT, base)
    assert found.flops == counter.get_total_flops() + attention + attention * 5 // 2  # ... and 5 of backward


def test_where_backward_stops_is_seen() -> None:
    model, base = tiny_on_meta(layers_to_transform=[2, 3], layers_pattern="layers")
    early = estimate(model, TEXT, base)
    assert early.path.blocks == [f"model.layers.{number}" for number in range(4)]
    assert early.path.passed == ["model.layers.2", "model.layers.3"]
    assert early.path.sentence == "backward runs through 2 of 4 blocks, from model.layers.2 up"
    through = estimate_footprint(
        model, TEXT, base=base, quantized={}, optimizer_bytes=8, autocast=None, through_all=True
    )
    assert through.path.passed == through.path.blocks
    assert through.flops > 1.2 * early.flops and through.activations > early.activations
