"""Training data and test items to `overlap.json`: which training rows must not be trained on."""

import logging
import time
from pathlib import Path

from spectral_ft.errors import DataError
from spectral_ft.experiment import Experiment
from spectral_ft.stages.benchmarks import source_tasks
from spectral_ft.storage import stored
from spectral_ft.types import Overlap, TaskOverlap

log = logging.getLogger(__name__)
FILE = "overlap.json"
"""In a run's folder."""


def training_overlap(experiment: Experiment, folder: Path) -> Overlap:
    """Compare the training set with the test set of every task.

    All items of a task are compared, whatever `benchmark.limit` says, so that runs which score fewer of them train on
    the same rows.

    Args:
        experiment: Its components.
        folder: Of the run; what lies there is read.

    Returns:
        What they have in common.

    Raises:
        DataError: If nothing is left to train on.
        HubError: If a task's items come from the hub, and it cannot be reached or refuses.
    """
    return _checked(stored(folder / FILE, Overlap, lambda: _found(experiment, folder)))


def _found(experiment: Experiment, folder: Path) -> Overlap:
    from spectral_ft.data.overlap import NEAR, find_overlap

    began, dataset = time.perf_counter(), experiment.dataset
    instructions = dataset.instructions()
    tests = {
        sourced.task.name: sourced.asked(experiment.benchmark.num_fewshot, folder / "tasks")
        for sourced in source_tasks(experiment)
    }
    matches = find_overlap(instructions, {name: items for name, items in tests.items() if items is not None})
    found = Overlap(
        dataset=dataset.name,
        rows=len(instructions),
        threshold=NEAR,
        dropped=dataset.drop_overlap,
        tasks=tuple(
            TaskOverlap(name, None if items is None else len(items), matches.get(name, ()))
            for name, items in tests.items()
        ),
    )
    _tell(found, seconds=time.perf_counter() - began)
    return found


def _checked(found: Overlap) -> Overlap:
    if len(found.left_out) == found.rows:
        raise DataError(
            f"dataset={found.dataset}: all {found.rows:,} training rows are test items ({_listed(found)}), so that "
            "none is left to train on: take another data set or another benchmark, or keep them with "
            "dataset.drop_overlap=false."
        )
    return found


def _tell(found: Overlap, *, seconds: float) -> None:
    for task in found.tasks:
        if task.items is None:
            log.warning(
                "%s: lm-eval's own task asks in another form than one text: its test items were not compared with "
                "training rows",
                task.task,
            )
    compared = sum(task.items or 0 for task in found.tasks)
    if not found.concerned:
        log.info("none of %d training rows is one of %d test items (%.1f s)", found.rows, compared, seconds)
    elif found.dropped:
        log.info(
            "dropped %d of %d training rows, which are test items (%s), in %.1f s",
            len(found.left_out),
            found.rows,
            _listed(found),
            seconds,
        )
    else:
        log.warning(
            "%d of %d training rows are test items (%s) and are trained on, since dataset.drop_overlap=false",
            len(found.concerned),
            found.rows,
            _listed(found),
        )


def _listed(found: Overlap) -> str:
    counts = {task.task: task.counts for task in found.tasks if task.matches}
    return "; ".join(
        f"{name}: {count['exact_items']:,} exactly, {count['near_items']:,} nearly" for name, count in counts.items()
    )
