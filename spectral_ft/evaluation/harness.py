"""The only caller of lm-eval: a model and prepared tasks in, scores and samples out."""

import importlib.metadata
import logging
import random
import shutil
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from spectral_ft.errors import ConfigError, OutOfMemory
from spectral_ft.evaluation.asking import check_chat_template
from spectral_ft.evaluation.benchmark import Benchmark
from spectral_ft.evaluation.completions import completion_scores, gold_losses, golds_of
from spectral_ft.evaluation.prepare import PreparedTask
from spectral_ft.evaluation.records import TaskScores
from spectral_ft.evaluation.results import read_results
from spectral_ft.types import Stage

if TYPE_CHECKING:
    from spectral_ft.evaluation.language_model import CheckedModel
    from spectral_ft.evaluation.responses import Responses

log = logging.getLogger(__name__)

BOOTSTRAP = 1_000
"""Draws for the standard error of what is no mean; means have a closed form."""
SEED, FEWSHOT_SEED = 0, 1234
"""The harness's own: of Python's random numbers, and of all others, the choice of examples in a prompt among them."""


def harness_version() -> str:
    """lm-eval's version.

    Returns:
        Such as 0.4.13.
    """
    return importlib.metadata.version("lm_eval")


def score_task(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    task: PreparedTask,
    benchmark: Benchmark,
    *,
    kind: Literal["causal_lm", "seq2seq", "classifier"] = "causal_lm",
    stage: Stage,
    context: int | None,
    mixed: torch.dtype | None = None,
) -> TaskScores:
    """Score a model that writes on one task; one that was killed goes on where it was.

    Args:
        model: Adapted or not.
        tokenizer: Its tokenizer.
        task: Prepared; beside its file stand the answers so far.
        benchmark: How it is scored.
        kind: Of the model.
        stage: Whether this is the base or the tuned model, for the record.
        context: Most tokens the model takes; None leaves it to the harness.
        mixed: What products are computed in, as in training; None: the dtypes of their factors.

    Returns:
        Scores and samples.

    Raises:
        ConfigError: If the model is a classifier, which the harness would score as if it wrote, or a chat template is
            asked for and the tokenizer has none.
        DataError: If a prompt and its answer do not fit into the model's context.
        CheckpointError: If a likelihood is no finite number.
        OutOfMemory: If memory runs out with one item at a time, or with as many as were asked for.
    """
    if kind == "classifier":
        raise ConfigError(
            f"benchmark {task.name}: lm-eval scores what a model writes, and for a classifier its numbers would mean "
            "nothing. Use a benchmark with classes, such as benchmark=sst2."
        )
    if benchmark.chat_template:
        check_chat_template(tokenizer)
    from spectral_ft.evaluation.batching import largest_batch
    from spectral_ft.evaluation.language_model import CheckedModel
    from spectral_ft.evaluation.responses import Responses

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    responses = Responses(task.file.with_name(f"{task.name}.{stage}.responses.sqlite"), task=task.name)
    largest, found = largest_batch(next(model.parameters()).device), None
    try:
        while found is None:
            lm = CheckedModel(
                model,
                tokenizer,
                responses,
                task=task.name,
                kind=kind,
                batch_size=benchmark.batch_size,
                largest_batch=largest,
                context=context,
                mixed=mixed,
            )
            try:
                found = _scored(lm, task, benchmark, stage, responses)
            except RuntimeError as error:
                largest = _smaller(lm.batch_size, task, benchmark, error)
    finally:
        responses.close(finished=found is not None)
        shutil.rmtree(task.file.parent / "arrow", ignore_errors=True)
    return found


def _smaller(size: int, task: PreparedTask, benchmark: Benchmark, error: RuntimeError) -> int:
    from accelerate.utils.memory import should_reduce_batch_size

    if not should_reduce_batch_size(error):
        raise error
    if benchmark.batch_size or size == 1:
        raise OutOfMemory(
            f"benchmark {task.name}: the device ran out of memory with {size} items at a time: lower "
            "benchmark.batch_size or benchmark.num_fewshot, or set quantization=nf4. What was answered is kept. "
            f"({str(error).splitlines()[0]})"
        ) from error
    log.warning("benchmark %s: %d items at a time do not fit, going on with %d", task.name, size, size // 2)
    return size // 2


def _scored(
    lm: "CheckedModel", task: PreparedTask, benchmark: Benchmark, stage: Stage, responses: "Responses"
) -> TaskScores:
    from spectral_ft.evaluation.responses import OnceAsked

    asked = OnceAsked(lm, responses)
    results, loaded = _evaluate(asked, task, benchmark)
    read = read_results(results, task, stage=stage, version=harness_version(), ended=responses.ended)
    if not benchmark.gold_loss:
        return read
    golds = golds_of(
        results["samples"][task.name],
        delimiter=str(loaded.config.target_delimiter),
        right=loaded.doc_to_text if loaded.multiple_input else None,  # WinoGrande's: the harness asks it for a place
    )
    losses = gold_losses(asked, golds)
    if len(losses) < len(golds):
        log.info(
            "benchmark %s: %d of %d gold completions do not fit the model%s",
            task.name,
            len(golds) - len(losses),
            len(golds),
            "" if losses else ", so that it has no gold_loss",
        )
    if not losses:
        return read
    return read.with_more(completion_scores(losses, golds, read.scores[0]))


def _evaluate(lm: Any, task: PreparedTask, benchmark: Benchmark) -> tuple[Any, Any]:
    # Results and the harness's task. As lm-eval's simple_evaluate does it, which takes no cache but its own.
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    random.seed(SEED)
    np.random.seed(FEWSHOT_SEED)
    torch.manual_seed(FEWSHOT_SEED)
    loaded = TaskManager(include_defaults=False).load([str(task.file)])
    one = loaded["tasks"][task.name]
    if one.get_config("num_fewshot") is None:
        one.set_config(key="num_fewshot", value=0)
    if benchmark.generation and one.get_config("output_type") == "generate_until":
        one.set_config(key="generation_kwargs", value=dict(benchmark.generation), update=True)
    one.set_fewshot_seed(seed=FEWSHOT_SEED)
    results = evaluator.evaluate(
        lm=lm,
        task_dict=loaded,
        limit=benchmark.limit,
        bootstrap_iters=BOOTSTRAP,
        log_samples=True,
        apply_chat_template=benchmark.chat_template,
        fewshot_as_multiturn=benchmark.chat_template,
    )
    return results, one
