"""The spectra, plans, drift, leakage check and comparison of runs for people inside their own script.

    frame = spectral_frame("path/to/checkpoint")                       # one row a matrix
    config = lora_config("path/to/checkpoint", "snr_top", "0.5%")      # a stock peft.LoraConfig
    frame = drift("path/to/run")                                       # one row a trained matrix
    frame = overlap("train.jsonl", "test.jsonl")                       # one row a test item that stands in both
    print(compare("runs/one", "runs/other"))                           # differences with intervals and p-values

Nothing here trains: the configuration goes into anyone's own Trainer.
"""

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectral_ft.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd
    from peft import LoraConfig

    from spectral_ft.experiment import Experiment
    from spectral_ft.reporting.compared import Comparison
    from spectral_ft.reporting.comparison import OverSeeds
    from spectral_ft.types import Stage

PLAIN = re.compile(r"[A-Za-z0-9_./+-]+")
"""What Hydra's command line takes without quotes."""


def spectral_frame(checkpoint: str | Path, *, cache: bool = True, **options: Any) -> "pd.DataFrame":
    """Singular-value metrics of every linear matrix of a checkpoint's blocks, without loading the model or torch.

    Args:
        checkpoint: Folder as `save_pretrained` writes it.
        cache: Keep singular values for the next time, in the folder that all runs share.
        **options: Of the group `spectrum`, by their names in `conf/spectrum/default.yaml`: `null_draws=8`.

    Returns:
        One row a matrix: name, type, side, block, rows, cols, then the metric columns of docs/spectra.md (null where
        one means nothing), and `reasons` for the nulls.

    Raises:
        CheckpointError: If the folder holds no checkpoint, or a matrix of it is missing or damaged.
        ConfigError: If an option does not exist or has a wrong value.
    """
    from spectral_ft.stages.spectrum import sound_report

    if not cache:
        options["cache"] = False
    experiment = _experiment(checkpoint, {f"spectrum.{name}": value for name, value in options.items()})
    with tempfile.TemporaryDirectory() as folder:
        located = experiment.model.locate()
        return sound_report(experiment.model.label, located, experiment.spectrum, Path(folder)).frame()


def lora_config(
    checkpoint: str | Path,
    policy: str = "uniform",
    budget: int | str | None = None,
    *,
    policy_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> "LoraConfig":
    """A LoRA configuration with ranks by a policy, for `peft.get_peft_model`.

    Args:
        checkpoint: Folder as `save_pretrained` writes it; its `config.json` is enough for policies that read shapes.
        policy: A choice of the group `rank_policy`: `snr_top`, `ht_sr`, ... Those that need training data (`gradient`,
            `explained_variance`) are refused: use `python -m spectral_ft.plan`.
        budget: Trainable parameters, or a percentage of all as a string (`"0.5%"`); None keeps the policy's ranks.
        policy_options: Of the policy, by their names in `conf/rank_policy/POLICY.yaml`: `{"rank": 16}`.
        **options: Of `LoraConfig`, passed on: `lora_dropout=0.05`, `use_dora=True`.

    Returns:
        With escaped module names in `target_modules`, `rank_pattern` and `alpha_pattern`.

    Raises:
        CheckpointError: If the folder holds no checkpoint, or no weights where the policy reads them.
        ConfigError: If the policy, the budget or an option cannot be.
        PlanError: If the policy selects nothing, or the budget is below one rank each.
    """
    from spectral_ft.adapters.lora import CHOOSING, check_configuration
    from spectral_ft.adapters.lora import lora_config as config_of
    from spectral_ft.stages.allocation import adaptable, plan_of
    from spectral_ft.stages.base import base_model
    from spectral_ft.stages.reading import what_plans_read
    from spectral_ft.types import PROBE_COLUMNS

    chosen: dict[str, Any] = {"rank_policy": policy} | _budget(budget)
    if options.get("use_dora"):
        chosen["method"] = "dora"
    chosen |= {f"rank_policy.{name}": value for name, value in (policy_options or {}).items()}
    experiment = _experiment(checkpoint, chosen)
    if needed := sorted(experiment.rank_policy.reads & set(PROBE_COLUMNS)):
        raise ConfigError(
            f"rank_policy={policy} reads {needed[0]}, which needs training data: use `python -m spectral_ft.plan "
            f"rank_policy={policy} dataset=...` and its plan.json."
        )
    with tempfile.TemporaryDirectory() as folder:
        located = experiment.model.locate()
        report, _ = what_plans_read(experiment, located, parts=[experiment.parts], folder=Path(folder))
        base = base_model(experiment, located, tuple(spectrum.matrix for spectrum in report.matrices))
        adaptable(experiment.parts, base, report, log_them=True)
        plan = plan_of(experiment.parts, base, report, None)
        config = config_of(plan, **options)
        if not CHOOSING & set(options):
            check_configuration(base.blueprint(), config, plan, heads=base.head_parameters)
        return config


def compare(
    run: str | Path | Sequence[str | Path],
    other: str | Path | Sequence[str | Path],
    *,
    stages: "tuple[Stage, Stage]" = ("tuned", "tuned"),
    over_seeds: "OverSeeds" = "t",
) -> "Comparison":
    """Compare runs item by item, with intervals and p-values (docs/statistics.md).

    Args:
        run: Folder of a run, or folders of runs that differ in their seed alone.
        other: Of what it is compared with.
        stages: Which scores of either side: `("tuned", "base")` with one folder twice is what its training changed.
        over_seeds: How several seeds are compared: `"t"`, or `"bootstrap"`, which other papers report, and which finds
            too many differences at three to five seeds.

    Returns:
        Printed, a table; `.frame()` gives pandas; `.rows` and `.skipped` what was compared and what was not.

    Raises:
        ConfigError: If there is no such procedure for seeds.
        DataError: If runs were not scored on the same items, samples are missing, or no score is common.
        RunError: If a folder holds no scores, or no record where seeds are needed, or a side has a seed twice.
    """
    from spectral_ft.reporting.comparison import compare_runs

    return compare_runs(_folders(run), _folders(other), stages=stages, over_seeds=over_seeds)


def _folders(given: str | Path | Sequence[str | Path]) -> list[Path]:
    several = [given] if isinstance(given, str | Path) else given
    return [Path(folder).expanduser() for folder in several]


def overlap(train: str | Path | Sequence[str], test: str | Path | Sequence[str]) -> "pd.DataFrame":
    """Which training texts are test items, the same or nearly (docs/leakage.md).

    Args:
        train: Texts, or a file of a form that data sets have here (`.json`, `.jsonl`, `.tsv`), or a folder with
            `train` in such a form.
        test: Likewise, a folder with `test`.

    Returns:
        One row a pair, exact ones first: kind (`exact` or `near`), similarity, train and test (places from 0), and
        both texts.

    Raises:
        DataError: If a file is missing, damaged or without a known column, or something is no text.
    """
    import pandas as pd

    from spectral_ft.data.benchmark_items import TEST_FILES, TRAIN_FILES
    from spectral_ft.data.overlap import find_overlap

    training, items = _texts(train, TRAIN_FILES, name="train"), _texts(test, TEST_FILES, name="test")
    rows = [
        (match.kind, match.similarity, place, item, training[place], items[item])
        for match in find_overlap(training, {"test": items})["test"]
        for place in match.training
        for item in match.test
    ]
    return pd.DataFrame(rows, columns=["kind", "similarity", "train", "test", "train_text", "test_text"])


def _texts(source: str | Path | Sequence[str], files: Sequence[str], *, name: str) -> list[str]:
    from spectral_ft.data.files import find_file, read_rows, to_items
    from spectral_ft.data.rows import asked

    if isinstance(source, str | Path):
        path = find_file(Path(source).expanduser(), files, option=name)
        return [item.instruction for item in to_items(read_rows(path), asked, source=str(path))]
    for place, text in enumerate(source):
        if not isinstance(text, str):
            raise DataError(f"{name}, text {place}: expected a text, found {type(text).__name__}.")
    return list(source)


def drift(
    run_folder: str | Path, *, own_code: Sequence[str] = (), trust_remote_code: bool = False, **options: Any
) -> "pd.DataFrame | None":
    """How far a run moved its matrices, read from its folder, or measured where nobody has yet.

    Args:
        run_folder: Of a run that is finished, or was cut after its training. Its record is data: it can name only
            components of spectral_ft.
        own_code: Modules of your own that the record may name too, such as `["my_metrics"]`.
        trust_remote_code: Run code that comes with the checkpoint; the record cannot ask for it.
        **options: Of the group `drift`, by their names in `conf/drift/default.yaml`: `top=20`. With any, the drift is
            measured anew and not written; without, it stays in the folder, as if the run had measured it.

    Returns:
        One row a trained matrix, with the columns of docs/drift.md; None where the run moved no matrix.

    Raises:
        CheckpointError: If the base or the adapter is missing, damaged, or does not belong to the other.
        ConfigError: If an option does not exist or has a wrong value.
        RunError: If the folder holds no run whose training is finished, or its record names code that is not allowed.
    """
    from dataclasses import replace

    from spectral_ft.compose import build_experiment, composed, recorded_experiment
    from spectral_ft.run_folder import claimed
    from spectral_ft.spectral.drift_settings import NoDrift
    from spectral_ft.stages import drift as stage
    from spectral_ft.stages.recorded_run import RecordedRun, read_record

    folder = Path(run_folder).expanduser()
    recorded = read_record(folder)
    if isinstance(own_code, str):
        own_code = [own_code]
    built = recorded_experiment(recorded.config, own_code=own_code, trust_remote_code=trust_remote_code)
    experiment = RecordedRun(built, recorded, folder).as_trained
    if options or isinstance(experiment.drift, NoDrift):
        chosen = {"drift": "default"} | {f"drift.{name}": value for name, value in options.items()}
        settings = build_experiment(composed([f"{key}={_written(value)}" for key, value in chosen.items()])).drift
        experiment = replace(experiment, drift=settings)
    checkpoint = experiment.model.locate()
    if options:
        return stage.measured(experiment, checkpoint, folder / "adapter")
    with claimed(folder, recorded.run_id):
        return stage.drift(experiment, checkpoint, folder)


def _budget(budget: int | str | None) -> dict[str, Any]:
    if budget is None:
        return {}
    if isinstance(budget, str) and budget.endswith("%"):
        return {"budget.kind": "percent", "budget.value": budget.removesuffix("%").strip()}
    return {"budget.kind": "params", "budget.value": budget}


def _experiment(checkpoint: str | Path, options: Mapping[str, Any]) -> "Experiment":
    from spectral_ft.compose import build_experiment, composed

    folder = str(Path(checkpoint).expanduser().absolute())
    said = {"model": "hf", "model.path": folder, **options}
    return build_experiment(composed([f"{key}={_written(value)}" for key, value in said.items()]))


def _written(value: Any) -> str:
    # As Hydra's command line has it.
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_written, value))}]"
    if isinstance(value, str) and not PLAIN.fullmatch(value):
        # Hydra reads a backslash as itself, but where a quote follows.
        escaped = re.sub(r"(\\*)'", r"\1\1\\'", re.sub(r"(\\+)$", r"\1\1", value))
        return f"'{escaped}'"
    return str(value)
