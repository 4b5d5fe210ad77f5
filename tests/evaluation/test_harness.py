"""Prepared tasks through lm-eval; oracle: a bare `simple_evaluate` on the same task file."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoTokenizer,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    T5ForConditionalGeneration,
)

from spectral_ft.data import rows
from spectral_ft.data.benchmark_items import local_fewshot_items, local_items
from spectral_ft.data.prompts import alpaca_evaluation, plain
from spectral_ft.data.rows import Item
from spectral_ft.errors import ConfigError, DataError
from spectral_ft.evaluation.harness import score_task
from spectral_ft.evaluation.prepare import PreparedTask, prepare
from spectral_ft.evaluation.records import TaskScores
from spectral_ft.evaluation.results import prompt_hash
from spectral_ft.evaluation.task import Task, TaskProtocol
from tests.evaluation.small_tasks import choices, small_llama
from tests.evaluation.test_benchmark import benchmark
from tests.models.small_checkpoints import save_t5

CONTEXT = 4096
TASKS = {
    "gsm8k": Task("gsm8k", {"paper": "paper_number"}, rows.gsm8k, None, ["gsm8k"], "gsm8k/gsm8k.yaml"),
    "aqua": Task("aqua", {"paper": "paper_letter"}, rows.aqua, None, ["AQuA", "aqua"], "agieval/aqua-rat.yaml"),
    "boolq": Task("boolq", {"paper": "paper_true_false"}, rows.boolq, None, ["boolq"], "super_glue/boolq/default.yaml"),
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return small_llama()[1]


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """Room for a long prompt."""
    return small_llama(CONTEXT)[0]


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
    options = benchmark(batch_size=3, limit=limit)
    return score_task(model, tokenizer, task, options, stage="base", context=CONTEXT)


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
    own = [score for score in ours.scores if score.metric != "unfinished"]
    for score in own:
        assert score.value == bare["results"][name][f"{score.metric},{score.extractor}"]
    assert [score.extractor for score in own] == metrics
    assert {(score.n, score.fewshot, score.protocol) for score in ours.scores} == {(3, few, "standard")}
    generated = [row["response"] for row in ours.samples]
    assert generated == [s["resps"][0][0] if few else None for s in bare["samples"][name]]


@pytest.mark.parametrize("name", ["gsm8k", "aqua", "boolq"])
def test_a_paper_task_scores_by_the_published_rule_and_the_strict_one(
    name: str, model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase,
    tmp_path: Path, shared_data: Path,
) -> None:  # fmt: skip
    task = prepared(name, "paper", tmp_path, shared_data / "llm_adapters")
    result = scored(model, tokenizer, task, limit=2)
    *own, unfinished = result.scores
    assert [score.extractor for score in own] == ["paper", "strict"]
    assert {(score.metric, score.protocol, score.n) for score in own} == {("exact_match", "paper", 2)}
    assert all(score.stderr == pytest.approx((score.value * (1 - score.value)) ** 0.5) for score in own)
    assert (unfinished.metric, unfinished.extractor) == ("unfinished", "length")
    assert [row["id"] for row in result.samples] == [0, 0, 1, 1]
    assert all(isinstance(row["response"], str) for row in result.samples)
    for score in own:
        right = [row["metrics"]["exact_match"] for row in result.samples if row["extractor"] == score.extractor]
        assert sum(right) / len(right) == score.value


SUMS = [Item(f"{n} + 1 =", "", str(n + 1)) for n in (1, 2)]


def written_sums(folder: Path) -> PreparedTask:
    task = Task("sums", {"standard": "wordmath"})
    return prepare(
        task, SUMS, protocol="standard", prompt=plain, fewshot_items=[], num_fewshot=None, folder=folder
    )  # fmt: skip


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> tuple[T5ForConditionalGeneration, PreTrainedTokenizerBase]:
    folder = save_t5(tmp_path_factory.mktemp("t5"))
    model = T5ForConditionalGeneration.from_pretrained(folder).eval()
    model.generation_config.suppress_tokens = [0, 1, 2]  # it writes words only, and never ends
    return model, AutoTokenizer.from_pretrained(folder)


def test_a_seq2seq_model_writes_what_it_writes_alone(
    t5: tuple[T5ForConditionalGeneration, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    model, tokenizer = t5
    found = score_task(
        model, tokenizer, written_sums(tmp_path), benchmark(batch_size=2), kind="seq2seq", stage="base", context=64
    )
    assert {(score.task, score.n, score.protocol) for score in found.scores} == {("sums", 2, "standard")}
    for item, row in zip(SUMS, (r for r in found.samples if r["extractor"] == "strict-match"), strict=True):
        ids = model.generate(**tokenizer(item.instruction, return_tensors="pt"), max_new_tokens=32, do_sample=False)
        assert row["response"] == tokenizer.decode(ids[0], skip_special_tokens=True)
        assert len(row["response"].split()) == 32  # the random model never ends: the task's limit did


def good_or_bad(folder: Path, text: str) -> PreparedTask:
    """A text with two words to choose from; the second one is right."""
    file = folder / "choice.yaml"
    (folder / "test.jsonl").write_text(json.dumps({"q": text, "gold": 1}))
    file.write_text(
        f"""
task: choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder / "test.jsonl"}}}, cache_dir: {folder / "arrow"}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: [good, bad]
doc_to_target: gold
metric_list: [{{metric: acc}}]
"""
    )
    return PreparedTask("choice", "standard", file, "f")


def test_a_seq2seq_model_scores_choices_by_what_its_decoder_says(
    t5: tuple[T5ForConditionalGeneration, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    model, tokenizer = t5
    task = good_or_bad(tmp_path, "a film")
    found = score_task(model, tokenizer, task, benchmark(batch_size=2), kind="seq2seq", stage="base", context=64)
    ids = tokenizer("a film", return_tensors="pt")["input_ids"]
    logits = model(input_ids=ids, decoder_input_ids=torch.tensor([[0]])).logits[0, 0].log_softmax(0)
    expected = [float(logits[token].detach()) for token in (3, 4)]  # good, bad
    assert found.samples[0]["log_likelihoods"] == pytest.approx(expected, abs=1e-5)


def test_a_prompt_that_the_harness_would_cut_has_no_likelihood(tmp_path: Path) -> None:
    items = [Item("1 + 1 =", "", "2"), Item("1 + " * 9 + "1 =", "", "10"), Item("2 + 2 =", "", "4")]
    model, tokenizer = small_llama()
    prompt, whole = (len(tokenizer(f"{items[1].instruction}{more}")["input_ids"]) for more in ("", " 10"))
    scored = [
        score_task(model, tokenizer, choices(tmp_path / str(room), items), benchmark(), stage="base", context=room)
        for room in (64, whole - 1)  # the last token is not read
    ]
    assert scored[0] == scored[1]
    message = (
        rf"benchmark choices, item 1: the prompt has {prompt} tokens and the answer has {whole - prompt}, together "
        rf"more than the model's context of {whole - 2}\."
    )
    with pytest.raises(DataError, match=message):
        score_task(model, tokenizer, choices(tmp_path / "x", items), benchmark(), stage="base", context=whole - 2)


def test_a_seq2seq_choice_and_its_prompt_have_a_context_each(
    t5: tuple[T5ForConditionalGeneration, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    def scored(text: str, *, context: int) -> TaskScores:
        return score_task(
            *t5, good_or_bad(tmp_path, text), benchmark(gold_loss=True), kind="seq2seq", stage="base", context=context
        )

    assert [score.metric for score in scored("a film " * 5, context=11).scores][-1] == "gold_perplexity"
    with pytest.raises(DataError, match=r"choice, item 0: the prompt has 11 tokens .*, one of them more than .* of 10"):
        scored("a film " * 5, context=10)


@pytest.mark.parametrize(
    ("context", "instruction", "words"),
    [(31, "1 + 1 =", "the answer may have 32, one of them"), (40, "1 " * 41, "the prompt has 42 tokens")],
)
def test_a_seq2seq_prompt_and_its_answer_have_a_context_each(
    t5: tuple[T5ForConditionalGeneration, PreTrainedTokenizerBase],
    tmp_path: Path, context: int, instruction: str, words: str,
) -> None:  # fmt: skip
    def task(text: str) -> PreparedTask:
        return prepare(
            Task("sums", {"standard": "wordmath"}), [Item(text, "", "2")], protocol="standard", prompt=plain,
            fewshot_items=[], num_fewshot=None, folder=tmp_path,
        )  # fmt: skip

    options = {"kind": "seq2seq", "stage": "base"}
    assert score_task(*t5, task("1 " * 30), benchmark(), **options, context=33).scores  # type: ignore[arg-type]
    with pytest.raises(DataError, match=rf"benchmark sums, item 0: .*{words}.* the model's context of {context}\."):
        score_task(*t5, task(instruction), benchmark(), **options, context=context)  # type: ignore[arg-type]


def test_a_context_that_only_the_tokenizer_knows_holds_too(
    t5: tuple[T5ForConditionalGeneration, PreTrainedTokenizerBase], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=r"one of them more than the model's context of 16\."):
        score_task(*t5, written_sums(tmp_path), benchmark(), kind="seq2seq", stage="base", context=None)


def test_a_classifier_is_refused(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"benchmark sums: lm-eval scores what a model writes, and for a classifier"):
        score_task(model, tokenizer, written_sums(tmp_path), benchmark(), kind="classifier", stage="base", context=None)


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


CHAT = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }} {% endfor %}[assistant]"


def test_a_chat_template_goes_around_the_prompt(tmp_path: Path) -> None:
    model, tokenizer = small_llama()
    tokenizer.chat_template = CHAT
    options = benchmark(chat_template=True, gold_loss=True)
    found = score_task(model, tokenizer, written_sums(tmp_path / "chat"), options, stage="base", context=64)
    plain_found = score_task(model, tokenizer, written_sums(tmp_path / "plain"), benchmark(), stage="base", context=64)
    asked = [prompt_hash(f"[user] {item.instruction} [assistant]") for item in SUMS]
    assert [row["prompt_hash"] for row in found.samples if row["extractor"] == "strict-match"] == asked
    assert [row["prompt_hash"] for row in found.samples if row["extractor"] == "completion"] == asked
    assert not {row["prompt_hash"] for row in plain_found.samples} & set(asked)


def test_without_a_template_a_chat_is_refused(tmp_path: Path) -> None:
    model, tokenizer = small_llama()
    with pytest.raises(ConfigError, match=r"benchmark\.chat_template=true, and the tokenizer .* has no chat template"):
        score_task(model, tokenizer, written_sums(tmp_path), benchmark(chat_template=True), stage="base", context=64)


def test_generation_settings_override_the_tasks_own(tmp_path: Path) -> None:
    model, tokenizer = small_llama()
    model.generation_config.suppress_tokens = [tokenizer.eos_token_id]
    lengths = {}
    for limit in (3, 9):
        options = benchmark(generation={"max_gen_toks": limit})
        found = score_task(model, tokenizer, written_sums(tmp_path / str(limit)), options, stage="base", context=64)
        lengths[limit] = {
            len(tokenizer(row["response"], add_special_tokens=False)["input_ids"]) for row in found.samples
        }
    assert max(lengths[3]) <= 3 < min(lengths[9])
