"""The loss on gold completions; oracle: the model's own logits, item by item."""

from pathlib import Path

import pytest
import torch

from spectral_ft.data.rows import Item
from spectral_ft.errors import CheckpointError
from spectral_ft.evaluation import language_model
from spectral_ft.evaluation.completions import LARGEST_MEAN, Gold, completion_scores
from spectral_ft.evaluation.harness import score_task
from spectral_ft.types import BenchmarkScore
from tests.evaluation.small_tasks import choices, small_llama, sums
from tests.evaluation.test_benchmark import benchmark
from tests.evaluation.test_prepare import RAW, local

ITEMS = [Item(f"{n} + {n * n} =", f"so it is #### {n + n * n}", str(n + n * n)) for n in range(1, 6)]
OPTIONS = benchmark(batch_size=2, gold_loss=True)


def expected(prompt: str, completion: str, context: int = 64) -> float:
    model, tokenizer = small_llama(context)
    before = tokenizer(prompt)["input_ids"]
    ids = torch.tensor([tokenizer(prompt + completion)["input_ids"]])
    with torch.no_grad():
        logs = model(ids).logits[0].log_softmax(-1)
    own = [-float(logs[place - 1, ids[0, place]]) for place in range(len(before), ids.shape[1])]
    return sum(own) / len(own)


def test_loss_and_perplexity_of_what_should_have_been_written(tmp_path: Path) -> None:
    found = score_task(*small_llama(), sums(tmp_path, ITEMS), OPTIONS, stage="tuned", context=64)
    losses = [expected(item.instruction, f" {item.completion}") for item in ITEMS]
    by_metric = {score.metric: score for score in found.scores}
    mean = sum(losses) / len(losses)
    assert by_metric["gold_loss"].value == pytest.approx(mean, rel=1e-5)
    assert by_metric["gold_perplexity"].value == pytest.approx(torch.tensor(mean).exp().item(), rel=1e-5)
    assert by_metric["gold_loss"].stderr == pytest.approx(torch.tensor(losses).std().item() / 5**0.5, rel=1e-4)
    rows = [row for row in found.samples if row["extractor"] == "completion"]
    assert [row["metrics"]["gold_loss"] for row in rows] == pytest.approx(losses, rel=1e-5)
    assert {(row["stage"], row["response"]) for row in rows} == {("tuned", None)}
    assert found.scores[0].metric == "exact_match"  # what counts comes first


def test_of_choices_it_is_the_right_one_and_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    original = language_model.CheckedModel._model_call
    monkeypatch.setattr(
        language_model.CheckedModel,
        "_model_call",
        lambda self, inputs, *a, **k: calls.append(1) or original(self, inputs, *a, **k),
    )
    without = score_task(
        *small_llama(), choices(tmp_path / "a", ITEMS), benchmark(batch_size=2), stage="base", context=64
    )
    alone, calls[:] = len(calls), []
    found = score_task(*small_llama(), choices(tmp_path / "b", ITEMS), OPTIONS, stage="base", context=64)
    assert len(calls) == alone > 1
    assert without.scores == found.scores[: len(without.scores)]
    rows = [row for row in found.samples if row["extractor"] == "completion"]
    losses = [expected(item.instruction, f" {item.answer}") for item in ITEMS]
    assert [row["metrics"]["gold_loss"] for row in rows] == pytest.approx(losses, rel=1e-4)


RIGHT = {
    "arc_easy": [1, 0], "arc_challenge": [0, 1], "openbookqa": [3, 1], "boolq": [1, 0], "piqa": [1, 0],
    "siqa": [1, 2], "hellaswag": [1, 3], "winogrande": [1, 0],
}  # fmt: skip
"""By eye: the place of the right choice of each row of `RAW`."""


@pytest.mark.parametrize("name", RAW)
def test_of_every_standard_task_it_is_the_right_choice(name: str, tmp_path: Path) -> None:
    model, tokenizer = small_llama(4096)
    task = local(name, tmp_path / "data", None, test=RAW[name][2])
    found = score_task(model, tokenizer, task, OPTIONS, stage="base", context=4096)
    chosen = {row["id"]: row["log_likelihoods"] for row in found.samples if row["log_likelihoods"] is not None}
    golds = [row for row in found.samples if row["extractor"] == "completion"]
    assert [row["id"] for row in golds] == list(chosen) == [0, 1]
    for row, place in zip(golds, RIGHT[name], strict=True):
        tokens = len(tokenizer(row["gold"], add_special_tokens=False)["input_ids"])
        assert row["metrics"]["gold_loss"] * tokens == pytest.approx(-chosen[row["id"]][place], rel=1e-4)
    if name == "winogrande":  # the choices are prompts
        losses = [
            expected("The cup fits the box as the box", " is big.", context=4096),
            expected("The cup fits no box as the cup", " is big.", context=4096),
        ]
        assert [row["metrics"]["gold_loss"] for row in golds] == pytest.approx(losses, rel=1e-4)


def test_what_does_not_fit_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    items = [*ITEMS[:2], ITEMS[2]._replace(completion="1 " * 80)]
    found = score_task(*small_llama(), sums(tmp_path, items), OPTIONS, stage="base", context=64)
    (score,) = [score for score in found.scores if score.metric == "gold_loss"]
    assert score.n == 2 and found.scores[0].n == 3
    assert "1 of 3 gold completions do not fit the model" in caplog.text


def test_where_none_fits_there_is_no_loss_and_it_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    items = [item._replace(completion="1 " * 80) for item in ITEMS]
    found = score_task(*small_llama(), sums(tmp_path, items), OPTIONS, stage="base", context=64)
    assert {score.metric for score in found.scores} == {"exact_match", "unfinished"}
    assert "5 of 5 gold completions do not fit the model, so that it has no gold_loss" in caplog.text


def test_a_perplexity_larger_than_any_number_is_left_out() -> None:
    leading = BenchmarkScore("t", "exact_match", 0.0, None, 1, 0, "strict", "paper", "base", "1")
    golds = [Gold(0, "a", " b")]
    assert [score.value for score in completion_scores({0: 1e4}, golds, leading).scores] == [1e4]
    assert completion_scores({0: LARGEST_MEAN}, golds, leading).scores[1].value < float("inf")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_likelihood_that_is_no_number_is_refused_and_not_kept(tmp_path: Path, value: float) -> None:
    model, tokenizer = small_llama()
    task = choices(tmp_path, ITEMS)
    with torch.no_grad():
        model.lm_head.weight.fill_(value)
    with pytest.raises(CheckpointError, match=r"benchmark choices: the log-likelihood of '.+' is nan\. The model"):
        score_task(model, tokenizer, task, OPTIONS, stage="tuned", context=64)
    again = score_task(*small_llama(), task, OPTIONS, stage="tuned", context=64)
    fresh = score_task(*small_llama(), choices(tmp_path / "fresh", ITEMS), OPTIONS, stage="tuned", context=64)
    assert again == fresh
