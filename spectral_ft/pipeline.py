"""A run, stage by stage: the only file that knows the order.

    data -> overlap.json
    checkpoint -> spectrum.parquet, probe.safetensors -> plan.json -> adapter/, train.json -> scores.json
               -> drift.parquet -> result.json

Each stage leaves a file and is not done again where that file is, so a run that was cut goes on at
the first unfinished stage when the same command is called again.
"""

import logging
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from spectral_ft.experiment import Experiment, all_parts
from spectral_ft.identity import RECORD_FORMAT
from spectral_ft.machine import describe_machine, git_commit, package_versions
from spectral_ft.methods.none import Nothing
from spectral_ft.processes import first_process_first, is_first, meet, part
from spectral_ft.run_folder import FAILURE, FINISHED, claimed, finished_run, mark_started
from spectral_ft.stages.allocation import plan_allocation
from spectral_ft.stages.base import HeldBase, base_model
from spectral_ft.stages.benchmarks import prepare_tasks, source_tasks, tell_prompts
from spectral_ft.stages.drift import drift
from spectral_ft.stages.evaluation import Scorer
from spectral_ft.stages.mirroring import show_plan, show_results
from spectral_ft.stages.overlap import training_overlap
from spectral_ft.stages.reading import check_description, what_plans_read
from spectral_ft.stages.training import check_data, check_examples, train_adapter
from spectral_ft.storage import write_json
from spectral_ft.tracking.tracker import Silent
from spectral_ft.types import AllocationPlan, BenchmarkScore, Overlap, RunResult, TrainOutcome
from spectral_ft.wandb_records import summary_of

log = logging.getLogger(__name__)


def run(experiment: Experiment, folder: Path) -> RunResult | None:
    """The whole job.

    Args:
        experiment: Its components.
        folder: Where its files are; a finished run there is returned, a cut one is continued.

    Returns:
        The record, which is also `result.json`; None in every process but the first, which alone scores.

    Raises:
        RunError: If the folder is in use, or holds another run.
    """
    began = time.perf_counter()
    meet()
    with claimed(folder, experiment.run_id) if is_first() else nullcontext():
        if done := finished_run(folder, experiment.run_id):
            return done
        checkpoint = experiment.model.locate(weights=False)  # whatever can be wrong is found before they are fetched
        check_data(experiment, checkpoint)
        tasks = source_tasks(experiment)
        with first_process_first():
            mark_started(folder, experiment.run_id, experiment.config)
            (folder / FAILURE).unlink(missing_ok=True)
            log.info("run %s in %s", experiment.run_id, folder)
            asked = prepare_tasks(experiment, checkpoint, tasks, folder)
            if not isinstance(experiment.method, Nothing):
                tell_prompts(experiment, tasks, asked)
            overlap = None if isinstance(experiment.method, Nothing) else training_overlap(experiment, folder)
            check_examples(experiment, checkpoint, folder)
            check_description(experiment, checkpoint)
            checkpoint = experiment.model.complete(checkpoint)
            checkpoint.check_whole()
            held = HeldBase(experiment, checkpoint)
            report, found = what_plans_read(
                experiment, checkpoint, parts=all_parts(experiment.parts), folder=folder, held=held
            )
            base = base_model(experiment, checkpoint, tuple(spectrum.matrix for spectrum in report.matrices))
            edited = experiment.planning.edited
            plan = plan_allocation(experiment.parts, base, report, found, folder=folder, edited=edited)
        tracker = (
            experiment.tracking.open(run_id=experiment.run_id, config=experiment.config, folder=folder)
            if is_first()
            else Silent()
        )
        try:
            show_plan(experiment, report, plan, folder=folder, tracker=tracker)
            outcome = train_adapter(
                experiment,
                checkpoint,
                plan,
                base=base,
                report=report,
                probe=found,
                folder=folder,
                log_row=tracker.log,
                held=held,
            )
            part()
            if not is_first():
                return None
            adapter = folder / outcome.adapter if outcome and outcome.adapter else None
            tracker.adapter(adapter) if adapter else None
            scores = Scorer(experiment, checkpoint, tasks, held).score(folder, adapter=adapter)
            drift(experiment, checkpoint, folder, held=held)
            held.release()
            show_results(scores, outcome, plan, folder=folder, tracker=tracker)
            result = _record(experiment, plan, outcome, scores, overlap=overlap, seconds=time.perf_counter() - began)
            tracker.summarise(summary_of(result))
        finally:
            tracker.close()
        write_json(folder / FINISHED, result, home=folder)
        return result


def _record(
    experiment: Experiment,
    plan: AllocationPlan,
    outcome: TrainOutcome | None,
    scores: tuple[BenchmarkScore, ...],
    *,
    overlap: Overlap | None,
    seconds: float,
) -> RunResult:
    counts = {
        "adapted_matrices": len(plan.adapted),
        "matrices": len(plan.allocations),
        "trainable_parameters": plan.trainable_parameters,
        "adapter_parameters": plan.adapter_parameters,
        "base_parameters": plan.base_parameters,
        "trainable_percent": plan.trainable_percent,
    }
    return RunResult(
        run_id=experiment.run_id,
        format=RECORD_FORMAT,
        status="finished",
        config=dict(experiment.config),
        plan=counts,
        train=asdict(outcome) if outcome else None,
        scores=scores,
        versions=package_versions(),
        git_commit=git_commit(),
        seed=experiment.seed,
        seconds=round(seconds, 2),
        machine=describe_machine(),
        overlap=overlap.summary if overlap else None,
    )
