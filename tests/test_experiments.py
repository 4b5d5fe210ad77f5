"""Experiments, arms and scales; oracles: Hydra's own grid, and the numbers of the published tables, typed here."""

from pathlib import Path
from typing import Any

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from spectral_ft.compose import build_experiment, composed
from spectral_ft.configuration import CONF
from spectral_ft.experiment import Experiment, all_parts
from spectral_ft.identity import run_id
from spectral_ft.reporting.arms import distinct_names, seedless
from spectral_ft.stages.allocation import plan_of
from spectral_ft.stages.base import base_model
from spectral_ft.stages.reading import what_plans_read
from tests.conftest import REPOSITORY, SHARED

SCALES = ("full", "tiny")
JOBS = {
    "ablation_budget": 3 * 3 * 3,
    "ablation_controls": 8 * 3,
    "ablation_lora_ar": 11 * 3,
    "ablation_quantization": 3 * 3 * 3,
    "ablation_sgm": 8 * 3,
    "ablation_spectraqlora": 4 * 3,
    "first_comparison": 2 * 2,
    "smoke": 17 * 2,
    "table1_arithmetic": 5 * 3,
    "table2_commonsense": 4 * 3,
}
"""Experiment to the number of its jobs; `hpo` is a search, whose jobs come of the scores."""
FIVE = ["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"]


def grid(name: str) -> list[list[str]]:
    """The overrides of each job of an experiment."""
    params = OmegaConf.load(CONF / "experiment" / f"{name}.yaml").hydra.sweeper.params
    said = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    return BasicSweeper.split_arguments(said, None)[0]


def job(name: str, scale: str, overrides: list[str]) -> Experiment:
    return build_experiment(composed([f"experiment={name}", f"scale={scale}", *overrides]))


def of_first_seed(name: str) -> list[list[str]]:
    return [overrides for overrides in grid(name) if "seed=0" in overrides]


def test_every_experiment_is_counted_and_says_what_it_asks() -> None:
    files = {path.stem: path.read_text().splitlines() for path in (CONF / "experiment").glob("*.yaml")}
    assert set(files) == {*JOBS, "hpo"}
    readme = (REPOSITORY / "experiments" / "README.md").read_text()
    for name, lines in files.items():
        assert lines[0] == "# @package _global_" and lines[1].startswith("# ") and len(lines[1].split()) > 5, name
        assert f"experiment={name}" in readme, f"{name} has no line in experiments/README.md"


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", JOBS)
def test_every_job_builds_and_none_is_there_twice(name: str, scale: str) -> None:
    jobs = grid(name)
    assert len(jobs) == len(set(map(tuple, jobs))) == JOBS[name]
    first = of_first_seed(name)
    seeds = {word for overrides in jobs for word in overrides if word.startswith("seed=")}
    assert len(jobs) == len(first) * len(seeds)
    built = [job(name, scale, overrides) for overrides in first]
    assert len({one.run_id for one in built}) == len(first)
    assert {one.seed for one in built} == {0}
    if scale == "tiny":
        assert {(one.model.name, one.dataset.name, *one.benchmark.tasks) for one in built} == {
            ("tiny", "wordmath", "wordmath")
        }
        assert {one.training.max_steps for one in built} == {built[0].training.max_steps}


@pytest.mark.parametrize("name", ["table1_arithmetic", "table2_commonsense", "ablation_quantization"])
def test_the_tiny_scale_keeps_methods_policies_and_budgets(name: str) -> None:
    for overrides in of_first_seed(name):
        full, tiny = (job(name, scale, overrides) for scale in SCALES)
        assert full.method == tiny.method and full.rank_policy == tiny.rank_policy
        assert (full.budget.kind, full.budget.value) == (tiny.budget.kind, tiny.budget.value)


def test_a_precision_that_an_experiment_asks_for_is_kept_by_the_tiny_scale() -> None:
    assert job("ablation_spectraqlora", "tiny", ["method=lora", "seed=0"]).quantization.label == "nf4-double"
    assert job("ablation_quantization", "tiny", ["method=lora", "quantization=int8"]).quantization.label == "int8"


def test_the_command_line_wins_over_the_tiny_scale() -> None:
    given = ["arm=arithmetic/lora", "training.max_steps=7", "dataset=gsm8k", "benchmark=gsm8k"]
    one = job("table1_arithmetic", "tiny", given)
    assert (one.training.max_steps, one.dataset.name, list(one.benchmark.tasks)) == (7, "gsm8k", ["gsm8k"])


@pytest.mark.parametrize(
    ("arm", "rate", "epochs", "batch"),
    [("pref_t", 3e-2, 5.0, 8), *((arm, 3e-4, 3.0, 16) for arm in ("adapter_s", "adapter_p", "lora", "lora_ar"))],
)
def test_the_arithmetic_arms_are_trained_as_published(arm: str, rate: float, epochs: float, batch: int) -> None:
    one = job("table1_arithmetic", "full", [f"arm=arithmetic/{arm}"])
    training = one.training
    assert (training.learning_rate, training.epochs, training.batch_size) == (rate, epochs, batch)
    assert (training.micro_batch_size, training.warmup_steps, training.schedule) == (4, 100, "linear")
    assert (training.max_steps, training.weight_decay, training.optimizer) == (None, 0.0, "adamw_torch")
    assert (one.model.name, one.dataset.name, one.dataset.max_length) == ("llama-7b", "math10k", 256)
    assert one.dataset.train_on_inputs
    assert list(one.benchmark.tasks) == ["aqua", "gsm8k", "mawps", "svamp"]


@pytest.mark.parametrize(("arm", "rate"), [("lora", 3e-4), ("dora_r16", 1e-4), ("dora_r32", 1e-4), ("lora_ar", 3e-4)])
def test_the_commonsense_arms_are_trained_as_published(arm: str, rate: float) -> None:
    one = job("table2_commonsense", "full", [f"arm=commonsense/{arm}"])
    training = one.training
    assert (training.learning_rate, training.epochs, training.batch_size) == (rate, 3.0, 16)
    assert training.activation_checkpointing
    assert (one.model.name, one.dataset.name, one.dataset.max_length) == ("llama3-8b", "commonsense170k", 256)
    assert len(one.benchmark.tasks) == 8


@pytest.mark.parametrize(
    ("arm", "rank", "dora"),
    [
        ("arithmetic/lora", 32, False),
        ("commonsense/lora", 32, False),
        ("commonsense/dora_r16", 16, True),
        ("commonsense/dora_r32", 32, True),
    ],
)
def test_the_arms_of_the_lora_family_have_the_published_ranks(arm: str, rank: int, dora: bool) -> None:
    config = build_experiment(composed(["model=llama-7b", f"arm={arm}"])).config
    assert config["rank_policy"]["rank"] == rank and config["rank_policy"]["lora_alpha"] == 2 * rank
    assert config["rank_policy"]["target_modules"] == FIVE
    assert (config["method"]["dropout"], config["method"]["use_dora"]) == (0.05, dora)


@pytest.mark.parametrize(("arm", "percent"), [("arithmetic/lora_ar", 0.821), ("commonsense/lora_ar", 0.48)])
def test_lora_ar_has_the_published_budget(arm: str, percent: float) -> None:
    config = build_experiment(composed(["model=llama-7b", f"arm={arm}"])).config
    assert config["budget"] == {**config["budget"], "kind": "percent", "value": percent}
    policy = config["rank_policy"]
    assert (policy["w_hill"], policy["w_mp_spikes"], policy["min_rank"], policy["max_rank"]) == (0.7, 0.3, 4, 64)
    assert (policy["select"], policy["rank_scaling"], policy["alpha_factor"]) == ("highest", "linear", 2.0)


@pytest.mark.parametrize(
    ("name", "model", "arm", "parameters", "percent"),
    [
        ("table1_arithmetic", "llama-7b", "arithmetic/pref_t", 2_621_440, 0.039),
        ("table1_arithmetic", "llama-7b", "arithmetic/adapter_s", 134_217_728, 1.953),
        ("table1_arithmetic", "llama-7b", "arithmetic/adapter_p", 247_463_936, 3.542),
        ("table1_arithmetic", "llama-7b", "arithmetic/lora", 56_098_816, 0.826),
        ("table2_commonsense", "llama3-8b", "commonsense/lora", 56_623_104, 0.700),
        ("table2_commonsense", "llama3-8b", "commonsense/dora_r32", 57_409_536, 0.710),
        ("table2_commonsense", "llama3-8b", "commonsense/dora_r16", 29_097_984, 0.361),
    ],
)
def test_the_arms_train_the_published_share(
    name: str, model: str, arm: str, parameters: int, percent: float, tmp_path: Path
) -> None:
    folder = SHARED / "models" / model
    if not folder.is_dir():
        pytest.skip(f"../shared/models/{model} is not here")
    plan = planned(job(name, "full", [f"arm={arm}", f"model.path={folder}"]), tmp_path)
    assert plan.trainable_parameters == parameters
    assert round(plan.trainable_percent, 3) == percent


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(JOBS) - {"first_comparison"}))
def test_every_tiny_job_has_a_plan(name: str, tmp_path: Path) -> None:
    for number, overrides in enumerate(of_first_seed(name)):
        folder = tmp_path / str(number)
        folder.mkdir()
        plan = planned(job(name, "tiny", overrides), folder)
        assert plan.trainable_parameters > 0 or "method=none" in overrides, overrides


def planned(one: Experiment, folder: Path) -> Any:
    checkpoint = one.model.locate()
    report, probe = what_plans_read(one, checkpoint, parts=all_parts(one.parts), folder=folder)
    base = base_model(one, checkpoint, tuple(spectrum.matrix for spectrum in report.matrices))
    return plan_of(one.parts, base, report, probe)


def test_a_search_scores_the_development_items() -> None:
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra `sweeps` is not installed")
    one = job("hpo", "tiny", [])
    assert one.config["benchmark"]["tasks"]["wordmath"]["own_items"]["split"] == "dev"
    assert job("hpo", "full", []).config["benchmark"]["stages"] == ["tuned"]


def test_a_control_is_another_permutation_in_each_run() -> None:
    runs = [job("ablation_controls", "tiny", ["arm=controls/snr_top_random", f"seed={seed}"]) for seed in (0, 1)]
    assert [run.rank_policy.seed for run in runs] == [0, 1]  # type: ignore[attr-defined]


def test_the_seeds_of_a_control_are_one_row_of_a_table() -> None:
    jobs = [overrides for overrides in grid("ablation_controls") if "seed=2" not in overrides]
    arms = [word.removeprefix("arm=") for overrides in jobs for word in overrides if word.startswith("arm=")]
    flats = [seedless(job("ablation_controls", "tiny", overrides).config) for overrides in jobs]
    assert len(jobs) == 2 * 8 and distinct_names(arms, flats) == arms


def test_a_recorded_job_has_the_identity_that_its_configuration_has() -> None:
    one = job("ablation_sgm", "tiny", ["arm=sgm/gram", "seed=0"])
    assert run_id(one.config) == one.run_id
