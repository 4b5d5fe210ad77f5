"""Oracles: a model that counts words, so that its scores can be counted by hand; a BERT that reads texts one by one."""

import json
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from spectral_ft.data.rows import Item
from spectral_ft.errors import CheckpointError, ConfigError
from spectral_ft.evaluation.classifier import evaluator_version, prepare_texts, score_classifier
from spectral_ft.evaluation.task import Task
from tests.evaluation.test_benchmark import benchmark
from tests.models.small_checkpoints import CONTEXT, bert_config, bert_tokenizer

LABELS = ["negative", "positive"]
TASK = Task(name="films", templates={}, classes=LABELS)
GOOD, BAD = 4, 5  # ids of the words


class CountsWords(torch.nn.Module):
    """Logits: how often a text has `bad` and `good`; padding and the mask must agree."""

    def __init__(self, words=(BAD, GOOD), value=0.0):
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.tensor(value))
        self.words = words
        self.batches = []

    def forward(self, input_ids, attention_mask):
        assert torch.equal(attention_mask, (input_ids != 0).long())
        self.batches.append(tuple(input_ids.shape))
        counts = [(input_ids == word).sum(1).float() for word in self.words]
        return SimpleNamespace(logits=torch.stack(counts, 1) + self.anchor)


ITEMS = [
    ("a good film", "positive"),  # logits 0, 1: right
    ("bad bad bad film", "negative"),  # 3, 0: right
    ("good", "negative"),  # 0, 1: wrong
    ("not good not bad bad the film", "positive"),  # 2, 1: wrong
    ("good good the film a", "positive"),  # 0, 2: right
]


def score(tmp_path, model, *, items=ITEMS, labels=LABELS, stage="base", batch_size=2, limit=None, context=CONTEXT):
    task = prepare_texts(TASK, [Item(text, label, label) for text, label in items], folder=tmp_path)
    return score_classifier(
        model,
        bert_tokenizer(),
        task,
        benchmark(batch_size=batch_size, limit=limit),
        labels=labels,
        positive="positive",
        stage=stage,
        context=context,
    )


def test_scores_by_hand(tmp_path):
    found = score(tmp_path, CountsWords(), stage="tuned")
    acc, f1, loss = found.scores
    assert (acc.metric, acc.value) == ("acc", 3 / 5)
    assert acc.stderr == pytest.approx(math.sqrt(0.6 * 0.4 / 4))
    assert (f1.metric, f1.value, f1.stderr) == ("f1", pytest.approx(4 / 6), None)  # tp 2, fp 1, fn 1
    surprises = [math.log(1 + math.exp(-margin)) for margin in (1, 3, -1, -1, 2)]
    assert (loss.metric, loss.value) == ("loss", pytest.approx(sum(surprises) / 5))
    for one in found.scores:
        assert (one.task, one.n, one.fewshot, one.extractor, one.protocol, one.stage, one.harness_version) == (
            "films",
            5,
            0,
            "argmax",
            "standard",
            "tuned",
            evaluator_version(),
        )


def test_every_text_has_its_sample_in_the_files_order(tmp_path):
    found = score(tmp_path, CountsWords())
    assert [row["id"] for row in found.samples] == [0, 1, 2, 3, 4]
    assert [row["logits"] for row in found.samples] == [[0, 1], [3, 0], [0, 1], [2, 1], [0, 2]]
    assert [row["response"] for row in found.samples] == ["positive", "negative", "positive", "negative", "positive"]
    assert [row["gold"] for row in found.samples] == [label for _, label in ITEMS]
    assert [row["metrics"]["acc"] for row in found.samples] == [1, 1, 0, 0, 1]
    assert len({row["prompt_hash"] for row in found.samples}) == 5
    assert json.loads(json.dumps(found.samples)) == found.samples


def test_labels_are_numbered_by_the_model(tmp_path):
    turned = score(tmp_path, CountsWords((GOOD, BAD)), labels=["positive", "negative"])
    assert turned.scores[0].value == 3 / 5
    assert turned.scores == score(tmp_path, CountsWords()).scores  # F1 too is of the same class: tp 2, fp 1, fn 1
    assert [row["logits"] for row in turned.samples][1] == [0, 3]


def test_more_labels_than_classes_are_a_mean_of_f1(tmp_path):
    found = score(tmp_path, CountsWords((BAD, GOOD, 99)), labels=[*LABELS, "neutral"])
    assert found.scores[1].value == pytest.approx((2 / 4 + 4 / 6) / 2)


def test_texts_of_like_length_are_read_together(tmp_path):
    model = CountsWords()
    score(tmp_path, model)
    assert model.batches == [(2, 5), (2, 7), (1, 9)]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_changes_nothing(tmp_path, batch_size):
    assert score(tmp_path, CountsWords(), batch_size=batch_size) == score(tmp_path, CountsWords())


def test_the_limit_takes_the_first_texts(tmp_path):
    found = score(tmp_path, CountsWords(), limit=2)
    assert [one.n for one in found.scores] == [2, 2, 2]
    assert found.scores[0].value == 1.0


def test_a_long_text_is_cut_at_the_context_and_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="spectral_ft")
    long = [("good " * 9 + "bad", "positive"), ("bad", "negative")]
    cut = score(tmp_path, CountsWords(), items=long, context=5)
    assert cut.samples[0]["logits"] == [0, 3]
    assert "benchmark films: 1 of 2 texts are cut at 5 tokens" in caplog.text
    caplog.clear()
    assert score(tmp_path, CountsWords(), items=long, context=None).samples[0]["logits"] == [1, 9]
    assert not caplog.text
    longer = [("good " * 20, "positive")]
    assert score(tmp_path, CountsWords(), items=longer, context=None).samples[0]["logits"] == [0, CONTEXT - 2]


def test_a_bert_reads_a_batch_as_it_reads_single_texts(tmp_path):
    torch.manual_seed(0)
    model = BertForSequenceClassification(bert_config(num_labels=2, initializer_range=0.5)).eval()
    tokenizer = bert_tokenizer()
    found = score(tmp_path, model, batch_size=5)
    for (text, _), row in zip(ITEMS, found.samples, strict=True):
        alone = model(**tokenizer(text, return_tensors="pt")).logits[0].tolist()
        assert row["logits"] == pytest.approx(alone, abs=1e-5)
    assert not any(parameter.grad is not None for parameter in model.parameters())


def test_a_line_break_of_another_kind_is_part_of_a_text(tmp_path):
    found = score(tmp_path, CountsWords(), items=[("good\u2028good\x85film", "positive")])
    assert found.samples[0]["gold"] == "positive"


def test_the_fingerprint_follows_texts_and_classes(tmp_path):
    def fingerprint(*items):
        return prepare_texts(TASK, [Item(text, label, label) for text, label in items], folder=tmp_path).fingerprint

    prints = {fingerprint(("a", "x")), fingerprint(("a", "y")), fingerprint(("b", "x")), fingerprint(("a", "x"))}
    assert len(prints) == 3


def test_a_class_that_is_no_label_is_refused(tmp_path):
    message = r"benchmark films has the class 'positive', none of model\.labels=\['negative', 'good'\]"
    with pytest.raises(ConfigError, match=message):
        score(tmp_path, CountsWords(), labels=["negative", "good"])


def test_a_model_that_writes_is_refused(tmp_path):
    config = LlamaConfig(
        vocab_size=19, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    message = r"sorts texts into 2 classes, and the model's logits for 2 texts have the shape \(2, \d+, 19\)"
    with pytest.raises(ConfigError, match=message):
        score(tmp_path, LlamaForCausalLM(config).eval())


def test_a_classifier_of_other_classes_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"have the shape \(2, 3\): it is no classifier of 2 labels"):
        score(tmp_path, CountsWords((BAD, GOOD, 6)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused(tmp_path, value):
    with pytest.raises(CheckpointError, match=r"benchmark films, item 0: the model's logits are \[(nan|inf)"):
        score(tmp_path, CountsWords(value=value))
