"""Oracle: small checkpoints of random weights, whole or damaged in one known place."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForSequenceClassification, Trainer, TrainingArguments

from spectral_ft.errors import CheckpointError
from spectral_ft.models.blueprints import blueprint, head_modules
from spectral_ft.models.kinds import check_kind, task_type
from spectral_ft.models.loading import load_model, load_tokenizer
from spectral_ft.models.quantization import Nf4, Unquantized
from tests.models.small_checkpoints import save_bert, save_llama, save_t5

LABELS = ["negative", "positive"]
HEAD = {"classifier.weight", "classifier.bias"}


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return save_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_llama(tmp_path_factory.mktemp("llama"))


def load(folder, **options):
    if options.get("kind") == "classifier":
        options = {"labels": LABELS} | options
    return load_model(
        folder, **{"quantization": Unquantized(), "dtype": "float32", "trust_remote_code": False} | options
    )


def edit(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("model_type", "options", "kinds"),
    [
        ("llama", {}, {"causal_lm", "classifier"}),
        ("gpt2", {}, {"causal_lm", "classifier"}),
        ("bert", {}, {"classifier"}),
        ("bert", {"is_decoder": True}, {"causal_lm", "classifier"}),
        ("roberta", {}, {"classifier"}),
        ("distilbert", {}, {"classifier"}),
        ("t5", {}, {"seq2seq", "classifier"}),
        ("bart", {}, {"seq2seq", "classifier"}),
        ("vit", {}, set()),
        ("vit", {"auto_map": {"AutoModelForCausalLM": "own.Model"}}, {"causal_lm"}),
    ],
)
def test_an_architecture_has_its_kinds(model_type, options, kinds):
    config = AutoConfig.for_model(model_type, **options)
    for kind in ("causal_lm", "seq2seq", "classifier"):
        if kind in kinds:
            check_kind(config, kind, folder=Path("here"))
        else:
            way_out = "use model.kind=" if kinds else "none of the kinds fits it"
            with pytest.raises(CheckpointError, match=rf"here holds a {model_type} .* as model.kind={kind}: {way_out}"):
                check_kind(config, kind, folder=Path("here"))


@pytest.mark.parametrize(
    ("kind", "other"), [("causal_lm", "model.kind=classifier"), ("seq2seq", "model.kind=classifier")]
)
def test_an_encoder_is_refused_as_what_writes(kind, other, bert):
    with pytest.raises(
        CheckpointError, match=f"a bert model, which cannot be loaded as model.kind={kind}: use {other}"
    ):
        load(bert, kind=kind)


@pytest.mark.parametrize(
    ("fixture", "kind", "name"),
    [
        ("bert", "classifier", "BertForSequenceClassification"),
        ("t5", "seq2seq", "T5ForConditionalGeneration"),
        ("llama", "causal_lm", "LlamaForCausalLM"),
        ("llama", "classifier", "LlamaForSequenceClassification"),
    ],
)
def test_each_kind_has_its_class_frozen_and_without_dropout(fixture, kind, name, request):
    folder = request.getfixturevalue(fixture)
    model = load(folder, kind=kind)
    assert type(model).__name__ == name
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    labels = LABELS if kind == "classifier" else None
    bare = blueprint(folder, kind=kind, labels=labels, trust_remote_code=False)
    assert sum(weight.numel() for weight in bare.parameters()) == sum(weight.numel() for weight in model.parameters())
    assert {parameter.device.type for parameter in bare.parameters()} == {"meta"}
    assert head_modules(bare, kind=kind) == head_modules(model, kind=kind)


def test_labels_stand_in_the_configuration(bert):
    config = load(bert, kind="classifier", labels=["a", "b", "c"]).config
    assert (config.num_labels, config.id2label, config.label2id) == (
        3,
        {0: "a", 1: "b", 2: "c"},
        {"a": 0, "b": 1, "c": 2},
    )


def test_a_missing_head_comes_from_its_seed_alone(bert):
    one = load(bert, kind="classifier", head_seed=3).state_dict()
    torch.rand(5)
    before = torch.get_rng_state()
    again = load(bert, kind="classifier", head_seed=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    other = load(bert, kind="classifier", head_seed=4).state_dict()
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert {name for name in one if not torch.equal(one[name], other[name])} == {"classifier.weight"}


def test_a_missing_head_is_told_in_one_line(bert, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="spectral_ft")
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    load(bert, kind="classifier", head_seed=3)
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith(
        "no head for ['negative', 'positive']: classifier.bias and classifier.weight drawn with seed 3"
    )


def test_a_head_that_is_there_is_kept(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="spectral_ft")
    folder = save_bert(tmp_path, labels=2)
    stored = load_file(folder / "model.safetensors")
    model = load(folder, kind="classifier", head_seed=9)
    assert all(torch.equal(model.state_dict()[name], stored[name]) for name in HEAD)
    assert not caplog.records


def test_a_head_for_other_labels_is_refused(tmp_path):
    folder = save_bert(tmp_path, labels=3)
    message = r"classifier\.bias has shape \(3,\) in the files and \(2,\) in the model: give as many model\.labels as"
    with pytest.raises(CheckpointError, match=message):
        load(folder, kind="classifier")


@pytest.mark.parametrize(
    ("make", "kind", "name"),
    [
        (save_bert, "classifier", "bert.pooler.dense.weight"),
        (save_llama, "causal_lm", "lm_head.weight"),
        (save_t5, "seq2seq", "encoder.block.0.layer.0.SelfAttention.q.weight"),
    ],
)
def test_a_missing_tensor_outside_the_head_is_refused(make, kind, name, tmp_path):
    folder = make(tmp_path)
    edit(folder, lambda tensors: tensors.pop(name.removeprefix("bert.")))
    with pytest.raises(CheckpointError, match=rf"lacks 1 of the \d+ tensors of a \w+, such as {name}: they would be"):
        load(folder, kind=kind)


def test_a_tensor_of_another_shape_is_refused(tmp_path):
    folder = save_t5(tmp_path)

    def cut(tensors):
        tensors["decoder.final_layer_norm.weight"] = tensors["decoder.final_layer_norm.weight"][:7].clone()

    edit(folder, cut)
    with pytest.raises(
        CheckpointError, match=r"final_layer_norm\.weight has shape \(7,\) in the files and \(32,\) in the"
    ):
        load(folder, kind="seq2seq")


def test_a_weight_that_is_no_number_is_refused(tmp_path):
    folder = save_bert(tmp_path)
    edit(folder, lambda tensors: tensors["encoder.layer.1.output.dense.weight"][0].fill_(float("nan")))
    with pytest.raises(CheckpointError, match=r"bert.encoder.layer.1.output.dense.weight holds 48 NaN or infinite ent"):
        load(folder, kind="classifier")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", '{"model_type": "no such"}', "config.json cannot be used"),
        ("model.safetensors", "nothing", "could not be loaded as model.kind=classifier"),
    ],
)
def test_a_damaged_file_is_refused(file, content, message, tmp_path):
    folder = save_bert(tmp_path)
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load(folder, kind="classifier")


def test_a_quantized_classifier_keeps_its_head(tmp_path):
    bert = save_bert(tmp_path, hidden_size=64, intermediate_size=128)  # whole blocks of 64
    model = load(bert, kind="classifier", quantization=Nf4(double_quantization=True))
    packed = {name for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}
    assert "bert.encoder.layer.1.attention.self.query" in packed
    assert "classifier" not in packed
    plain = load(bert, kind="classifier")
    assert torch.equal(model.classifier.weight, plain.classifier.weight)
    ids = torch.tensor([[2, 4, 5, 3]])
    assert model(input_ids=ids).logits == pytest.approx(plain(input_ids=ids).logits.detach(), abs=0.1)


def test_heads_are_what_lies_outside_the_body(bert, llama, t5):
    def heads(folder, kind, labels=LABELS):
        return head_modules(blueprint(folder, kind=kind, labels=labels, trust_remote_code=False), kind=kind)

    assert heads(bert, "classifier") == ("classifier",)
    assert heads(llama, "classifier") == ("score",)
    assert heads(t5, "classifier") == ("classification_head",)
    assert heads(t5, "seq2seq", None) == heads(llama, "causal_lm", None) == ()


def test_a_trained_head_travels_with_the_adapter(bert, tmp_path):
    base = load(bert, kind="classifier", head_seed=1)
    adapted = get_peft_model(base, LoraConfig(task_type=task_type("classifier"), target_modules=["query"]))
    torch.nn.init.normal_(adapted.base_model.model.classifier.modules_to_save["default"].weight)
    adapted.save_pretrained(tmp_path)
    ids = torch.tensor([[2, 4, 5, 3]])
    expected = adapted.eval()(input_ids=ids).logits
    other = PeftModel.from_pretrained(load(bert, kind="classifier", head_seed=2), tmp_path).eval()
    assert torch.allclose(other(input_ids=ids).logits, expected)


def test_pefts_names_exist():
    names = [task_type(kind) for kind in ("causal_lm", "seq2seq", "classifier")]
    assert names == [TaskType.CAUSAL_LM, TaskType.SEQ_2_SEQ_LM, TaskType.SEQ_CLS]


@pytest.mark.parametrize(
    ("fixture", "kind", "side"),
    [
        ("llama", "causal_lm", "left"),
        ("llama", "classifier", "right"),
        ("bert", "classifier", "right"),
        ("t5", "seq2seq", "right"),
    ],
)
def test_only_what_goes_on_with_a_text_is_padded_on_its_left(fixture, kind, side, request):
    tokenizer = load_tokenizer(request.getfixturevalue(fixture), kind=kind, trust_remote_code=False)
    assert tokenizer.padding_side == side
    assert tokenizer.pad_token_id == 0


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    folder = save_bert(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 10}))
    with pytest.raises(CheckpointError, match="ids up to 18, the model's vocabulary ends at 9"):
        load_tokenizer(folder, kind="classifier", trust_remote_code=False)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="the tokenizer could not be loaded"):
        load_tokenizer(folder, kind="classifier", trust_remote_code=False)


def test_a_tokenizer_without_a_padding_token_pads_with_its_end_or_is_refused(llama, tmp_path):
    folder = shutil.copytree(llama, tmp_path / "llama")
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    del config["pad_token"]
    file.write_text(json.dumps(config))
    tokenizer = load_tokenizer(folder, trust_remote_code=False)
    assert tokenizer.pad_token == tokenizer.eos_token == config["eos_token"]
    del config["eos_token"]
    file.write_text(json.dumps(config))
    assert load_tokenizer(folder, trust_remote_code=False).eos_token == tokenizer.eos_token  # as its files use it
    nothing = {
        "tokenizer.json": "post_processor",
        "config.json": "eos_token_id",
        "generation_config.json": "eos_token_id",
    }
    for name, key in nothing.items():
        if (folder / name).exists():
            (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | {key: None}))
    with pytest.raises(CheckpointError, match=r"names no end token.* tokenizer_config\.json"):
        load_tokenizer(folder, trust_remote_code=False)


def test_a_decoder_that_classifies_finds_the_end_of_a_padded_text(llama):
    model = load(llama, kind="classifier")
    assert model.config.pad_token_id == 0
    batch = model(
        input_ids=torch.tensor([[5, 6, 7], [8, 0, 0]]), attention_mask=torch.tensor([[1, 1, 1], [1, 0, 0]])
    ).logits
    alone = torch.cat([model(input_ids=torch.tensor([ids])).logits for ids in ([5, 6, 7], [8])])
    assert torch.allclose(batch, alone, atol=1e-6)


@pytest.mark.parametrize(("fixture", "kind"), [("bert", "classifier"), ("t5", "seq2seq")])
def test_the_loss_of_a_step_is_the_mean_over_its_micro_batches(fixture, kind, request, tmp_path):
    model = load(request.getfixturevalue(fixture), kind=kind)
    model.requires_grad_(True)
    rows = [{"input_ids": torch.tensor([4, word]), "labels": torch.tensor([1, 0][word % 2])} for word in (5, 6, 7, 8)]
    if kind == "seq2seq":
        rows = [row | {"labels": torch.tensor([7, 2])} for row in rows]
    losses = [
        float(model(**{name: value[None] for name, value in row.items()}).loss.detach()) for row in rows
    ]  # evaluation mode: no dropout
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            str(tmp_path), max_steps=1, per_device_train_batch_size=1, gradient_accumulation_steps=4, logging_steps=1,
            learning_rate=0.0, report_to=[], disable_tqdm=True, use_cpu=True, save_strategy="no",
        ),
        train_dataset=rows,
    )  # fmt: skip
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(sum(losses) / 4, rel=1e-4)


def test_our_model_is_the_librarys(tmp_path):
    folder = save_bert(tmp_path, labels=2)
    ids = torch.tensor([[2, 4, 5, 3]])
    theirs = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    assert torch.equal(load(folder, kind="classifier")(input_ids=ids).logits, theirs(input_ids=ids).logits)
