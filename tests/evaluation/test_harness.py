"""Prepared tasks through lm-eval; oracle: a bare `simple_evaluate` on the same task file."""

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from spectral_ft.data import rows
from spectral_ft.data.benchmark_items import local_fewshot_items, local_items
from spectral_ft.data.prompts import alpaca_evaluation
from spectral_ft.data.rows import Item
from spectral_ft.errors import DataError
from spectral_ft.evaluation.harness import score_task
from spectral_ft.evaluation.prepare import PreparedTask, prepare
from spectral_ft.evaluation.records import TaskScores
from spectral_ft.evaluation.task import Task, TaskProtocol
from tests.conftest import EMBEDDED

CONTEXT = 4096
TASKS = {
    "gsm8k": Task("gsm8k", {"paper": "paper_number"}, rows.gsm8k, None, ["gsm8k"], "gsm8k/gsm8k.yaml"),
    "aqua": Task("aqua", {"paper": "paper_letter"}, rows.aqua, None, ["AQuA", "aqua"], "agieval/aqua-rat.yaml"),
    "boolq": Task("boolq", {"paper": "paper_true_false"}, rows.boolq, None, ["boolq"], "super_glue/boolq/default.yaml"),
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(EMBEDDED)


@pytest.fixture(scope="module")
def model(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """Random weights, and room for a long prompt."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config).eval()


def prepared(
    name: str, protocol: TaskProtocol, folder: Path, data: Path, num_fewshot: int | None = None
) -> PreparedTask:
    task = TASKS[name]
    return prepare(
        task,
        local_items(data, task.folders or [], task.rows)[:6],  # type: ignore[arg-type]
        protocol=protocol,
        prompt=alpaca_evaluation,
        fewshot_items=local_fewshot_items(data, task.folders or [], task.rows)[:20],  # type: ignore[arg-type]
        num_fewshot=num_fewshot,
        folder=folder,
    )


def scored(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, task: PreparedTask, limit: int) -> TaskScores:
    return score_task(model, tokenizer, task, stage="base", batch_size=3, limit=limit, context=CONTEXT)


@pytest.mark.parametrize(
    ("name", "few", "metrics"), [("gsm8k", 5, ["strict-match", "flexible-extract"]), ("aqua", 0, ["none", "none"])]
)
def test_a_standard_task_on_local_items_scores_as_the_bare_harness_does(
    name: str, few: int, metrics: list[str], model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path, shared_data: Path,
) -> None:  # fmt: skip
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    task = prepared(name, "standard", tmp_path, shared_data)
    ours = scored(model, tokenizer, task, limit=3)
    bare = simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3, max_length=CONTEXT),
        tasks=[str(task.file)],
        task_manager=TaskManager(include_defaults=False),
        limit=3,
        bootstrap_iters=0,
    )
    assert bare is not None
    for score in ours.scores:
        assert score.value == bare["results"][name][f"{score.metric},{score.extractor}"]
    assert [score.extractor for score in ours.scores] == metrics
    assert {(score.n, score.fewshot, score.protocol) for score in ours.scores} == {(3, few, "standard")}
    generated = [row["response"] for row in ours.samples]
    assert generated == [s["resps"][0][0] if few else None for s in bare["samples"][name]]


@pytest.mark.parametrize(
    ("name", "extractors"), [("gsm8k", {"paper"}), ("aqua", {"paper", "strict"}), ("boolq", {"paper"})]
)
def test_a_paper_task_scores_by_the_published_rule(
    name: str, extractors: set[str], model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path, shared_data: Path,
) -> None:  # fmt: skip
    task = prepared(name, "paper", tmp_path, shared_data / "llm_adapters")
    result = scored(model, tokenizer, task, limit=2)
    assert {score.extractor for score in result.scores} == extractors
    assert {(score.metric, score.protocol, score.n) for score in result.scores} == {("exact_match", "paper", 2)}
    assert all(score.stderr == pytest.approx((score.value * (1 - score.value)) ** 0.5) for score in result.scores)
    assert [row["id"] for row in result.samples] == [0, 1]
    assert all(isinstance(row["response"], str) for row in result.samples)


def test_few_shot_prompts_need_training_items(tmp_path: Path, shared_data: Path) -> None:
    task = TASKS["gsm8k"]
    items = local_items(shared_data, ["gsm8k"], rows.gsm8k)[:2]
    with pytest.raises(DataError, match=r"gsm8k with 5 examples in the prompt needs a train.jsonl"):
        prepare(
            task,
            items,
            protocol="standard",
            prompt=alpaca_evaluation,
            fewshot_items=[],
            num_fewshot=None,
            folder=tmp_path,
        )


def test_the_fingerprint_of_a_task_follows_its_items(tmp_path: Path) -> None:
    def fingerprint(answer: str) -> str:
        return prepare(
            TASKS["gsm8k"], [Item("What?", "", answer)], protocol="paper", prompt=alpaca_evaluation, fewshot_items=[],
            num_fewshot=None, folder=tmp_path,
        ).fingerprint  # fmt: skip

    assert fingerprint("1") == fingerprint("1") != fingerprint("2")
