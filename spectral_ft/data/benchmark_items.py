"""Test items of a task from local files, or from the hub where a task reads them itself."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from spectral_ft.data.dataset import HubSplit
from spectral_ft.data.files import find_file, iterate_rows, look_for, read_rows, to_items
from spectral_ft.data.rows import Item
from spectral_ft.errors import DataError

TEST_FILES = ("test.jsonl", "test.json", "test.tsv")
TRAIN_FILES = ("train.jsonl", "train.json")
OPTION = "benchmark.data_dir"
RECIPE = "benchmark.tasks.NAME.rows"
"""The option with what a recipe of a task is told."""


def local_file(folder: Path, names: Sequence[str]) -> Path:
    """The test file of a task.

    Args:
        folder: With the test file, or with one folder a task.
        names: The task's names there.

    Returns:
        The file.

    Raises:
        DataError: If it is missing.
    """
    inner = next((folder / name for name in names if (folder / name).is_dir()), folder)
    return find_file(inner, TEST_FILES, option=OPTION)


def local_items(folder: Path, names: Sequence[str], rows: Callable[[dict[str, Any]], Item]) -> list[Item]:
    """The test items of a task.

    Args:
        folder: With the test file, or with one folder a task.
        names: The task's names there.
        rows: One of `data/rows.py`.

    Returns:
        The items, in the file's order.

    Raises:
        DataError: If the file is missing, empty, truncated, without the expected columns, an item
            has no answer, or two rows have one `id`.
    """
    path = local_file(folder, names)
    found = read_rows(path)
    _check_ids(found, source=str(path))
    converted = to_items(found, rows, source=str(path), option=RECIPE)
    items = [_answered_right(item, row) for item, row in zip(converted, found, strict=True)]
    for number, item in enumerate(items, start=1):
        if not item.answer.strip():
            raise DataError(f"{path}, row {number}: the answer is empty.")
    return items


def _answered_right(item: Item, row: Mapping[str, Any]) -> Item:
    # The `output` of LLM-Adapters' test files is an old model's guess, but where it is their fixed sentence.
    if "instruction" not in row:
        return item
    sentence = f"the correct answer is {item.answer}"
    written = sentence if item.completion.strip() == sentence else item.answer.removesuffix(".0")
    return item._replace(completion=written)


def hub_items(*, hub: HubSplit, rows: Callable[[dict[str, Any]], Item]) -> list[Item]:
    """The test items of a task, from the hub or its local cache.

    Args:
        hub: Where they are.
        rows: One of `data/rows.py`.

    Returns:
        The items, in the split's order.

    Raises:
        DataError: If a row lacks a column or has no label.
        HubError: If the hub cannot be reached or refuses.
    """
    from spectral_ft.hub import download_rows

    found = download_rows(hub.id, name=hub.name, split=hub.split, override=f"{OPTION}=FOLDER")
    return to_items(found, rows, source=hub.id, option=RECIPE)


def local_fewshot_items(folder: Path, names: Sequence[str], rows: Callable[[dict[str, Any]], Item]) -> list[Item]:
    """The training items beside a test file, for prompts with examples.

    Args:
        folder: With the test file, or with one folder a task.
        names: The task's names there.
        rows: One of `data/rows.py`.

    Returns:
        The items, without those whose completion is empty; none if there is no training file.
    """
    path = look_for(local_file(folder, names).parent, TRAIN_FILES, option=OPTION)
    if path is None:
        return []
    found = to_items(iterate_rows(path), rows, source=str(path), option=RECIPE)
    return [item for item in found if item.completion.strip()]


def _check_ids(rows: Sequence[dict[str, Any]], *, source: str) -> None:
    seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        if "id" not in row:
            continue
        before = seen.setdefault(str(row["id"]), number)
        if before != number:
            raise DataError(
                f"{source}, rows {before} and {number}: both have the id {row['id']}, so one of them would be scored "
                "twice or is misnamed; remove one."
            )
