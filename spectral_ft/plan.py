"""`python -m spectral_ft.plan model=M method=X rank_policy=P`: the plan without training.

Leaves `plan.json` and `figures/plan.png`, and prints the rank map, the counts and the estimated memory. Where the
policy needs only shapes, a `config.json` without weights is enough.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from spectral_ft.entry import hydra_entry

if TYPE_CHECKING:
    from omegaconf import DictConfig


def job(config: "DictConfig") -> None:
    """One plan.

    Args:
        config: As Hydra composed it.
    """
    from spectral_ft.compose import build_experiment, build_parts
    from spectral_ft.experiment import all_parts
    from spectral_ft.reporting.plan_difference import difference, difference_table
    from spectral_ft.reporting.plan_table import plan_table, step_lines
    from spectral_ft.reporting.rank_map import rank_map
    from spectral_ft.run_folder import claimed, mark_started
    from spectral_ft.stages.allocation import plan_allocation, plan_of
    from spectral_ft.stages.base import base_model
    from spectral_ft.stages.planning import estimated_step, other_plan
    from spectral_ft.stages.probe import is_asked
    from spectral_ft.stages.reading import check_weights, reads_weights, what_plans_read
    from spectral_ft.stages.training import check_data, check_examples

    folder = Path(HydraConfig.get().runtime.output_dir)
    experiment = build_experiment(config)
    against = experiment.planning.against
    file = Path(against).expanduser() if against and against.endswith(".json") else None
    rival = build_parts(against, option="planning.against", seed=experiment.seed) if against and file is None else None
    with claimed(folder, experiment.run_id):
        wanted = all_parts(experiment.parts, *([rival] if rival else []))
        checkpoint = experiment.model.locate(weights=False)
        if reads_weights(wanted):
            if experiment.model.path is not None:
                check_weights(checkpoint, wanted)
            if is_asked(wanted):
                check_data(experiment, checkpoint)
                check_examples(experiment, checkpoint, folder)
            checkpoint = experiment.model.complete(checkpoint)
        report, found = what_plans_read(experiment, checkpoint, parts=wanted, folder=folder)
        base = base_model(experiment, checkpoint, tuple(spectrum.matrix for spectrum in report.matrices))
        edited = experiment.planning.edited
        plan = plan_allocation(experiment.parts, base, report, found, folder=folder, edited=edited)
        mark_started(folder, experiment.run_id, experiment.config)  # now the folder holds the plan of these options
        print(rank_map(plan, base.matrices))
        step = estimated_step(experiment, plan, base, found)
        print(plan_table(plan, base.matrices, step.memory if step else None))
        print(step_lines(step)) if step else None
        if other := plan_of(rival, base, report, found) if rival else file and other_plan(file):
            print(difference_table(difference(plan, other), before="this plan", after=str(against)))
        written = [folder / "plan.json"]
        if experiment.figures:
            from spectral_ft.reporting.plan_figure import draw_plan

            written.append(folder / "figures" / "plan.png")
            title = f"{experiment.method.name} on {experiment.model.label}"
            draw_plan(written[-1], plan, base.matrices, title=title)
        print("\n".join(map(str, written)))


def main() -> None:
    """The command."""
    hydra_entry(job, name="plan")


if __name__ == "__main__":
    main()
