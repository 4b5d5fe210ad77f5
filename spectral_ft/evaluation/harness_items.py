"""A task's items as the harness loads them, from the hub where it keeps them there, and the examples that it shows."""

from typing import Any, NamedTuple

from spectral_ft.errors import ConfigError
from spectral_ft.evaluation.prepare import PreparedTask
from spectral_ft.hub import ask_hub

SEED = 0
"""Of the examples in the prompt that is tried."""


class HarnessItem(NamedTuple):
    """An item that is scored."""

    row: dict[str, Any]
    """As its source has it, with what the task adds."""
    text: str | None
    """What the task asks, without examples; None where it asks in another form than one text."""


def harness_items(task: PreparedTask) -> list[HarnessItem]:
    """Let the harness load a task, fetch its items where they come from the hub, and try a prompt with examples.

    Args:
        task: Prepared.

    Returns:
        All items that are scored where no limit is set.

    Raises:
        HubError: If the hub cannot be reached or refuses.
        ConfigError: If examples are asked for, and the task has none or cannot show them.
    """
    from lm_eval.tasks import TaskManager

    def load() -> Any:
        return TaskManager(include_defaults=False).load([str(task.file)])["tasks"][task.name]

    loaded = ask_hub(load, f"benchmark {task.name}", override="benchmark.data_dir=FOLDER")
    rows = [dict(row) for row in loaded.eval_docs]
    if shots := loaded.get_config("num_fewshot"):
        _check_examples(loaded, rows[0], shots, task.name)
    texts = [loaded.doc_to_text(row) for row in rows]
    return [HarnessItem(row, text if isinstance(text, str) else None) for row, text in zip(rows, texts, strict=True)]


def _check_examples(loaded: Any, row: dict[str, Any], shots: int, name: str) -> None:
    config, way_out = loaded.config, "set benchmark.num_fewshot=0, or use benchmark.protocol=paper with local files."
    split = loaded.fewshot_cfg.split or config.training_split or config.validation_split or config.test_split
    if loaded.fewshot_cfg.samples is None and split == (config.test_split or config.validation_split):
        raise ConfigError(
            f"benchmark {name}: lm-eval's own task has no examples apart from the items that are scored, and would "
            f"show these with their answers: {way_out}"
        )
    loaded.set_fewshot_seed(seed=SEED)
    try:
        loaded.fewshot_context(row, num_fewshot=shots)
    except (AssertionError, ValueError) as error:  # its targets are no texts, as AQuA's; or too few examples
        raise ConfigError(f"benchmark {name}: lm-eval's own task cannot show examples ({error}): {way_out}") from error
