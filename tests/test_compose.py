"""The configuration tree; oracle: every file of every group composes and builds."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from spectral_ft.compose import build_experiment, build_parts, composed, plain
from spectral_ft.configuration import CONF
from spectral_ft.errors import ConfigError
from spectral_ft.experiment import Experiment
from spectral_ft.identity import run_id
from spectral_ft.option_help import help_text
from spectral_ft.schema import GROUPS, SHORTCUTS

FILES = sorted(path for path in CONF.rglob("*.yaml") if path.name != "config.yaml")
NEEDS = {
    "general_text/file": ["general_text.path=a.txt"],
    "model/hf": ["model.id=some/model"],
    "model/t5-small": ["dataset.train_on_inputs=false"],
    "dataset/jsonl": ["dataset.data_dir=data.jsonl"],
    "budget/params": ["budget.value=30_000"],
    "budget/percent": ["budget.value=0.48"],
    "rank_policy/none": ["method=none"],
}
"""What a choice cannot do without."""
CHOICES = [path for path in FILES if not path.name.startswith("_")]


def built(*overrides: str) -> Experiment:
    return build_experiment(composed(list(overrides)))


def test_the_tree_holds_every_group_and_nothing_else() -> None:
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == {*GROUPS, *SHORTCUTS}
    assert len(FILES) == len(list(CONF.glob("*/**/*.yaml"))) == len(list(CONF.rglob("*.yaml"))) - 1 == 148
    assert len(CHOICES) == 144


@pytest.mark.parametrize("file", CHOICES, ids=lambda file: str(file.relative_to(CONF)))
def test_every_choice_composes_and_builds(file: Path) -> None:
    group = file.relative_to(CONF).parts[0]
    choice = file.relative_to(CONF / group).with_suffix("")
    overrides = [f"{group}={choice}", *NEEDS.get(f"{group}/{choice}", [])]
    if choice.name == "hpo":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="the extra `sweeps` is not installed")
    if group == "experiment":
        assert "hydra" not in plain(composed(overrides))
    else:
        assert built(*overrides).run_id


def test_the_defaults_are_the_demo() -> None:
    experiment = built()
    names = (experiment.model.name, experiment.dataset.name, list(experiment.benchmark.tasks))
    assert names == ("tiny", "wordmath", ["wordmath"])
    assert experiment.training.max_steps is not None


def test_another_model_gets_the_published_experiment() -> None:
    experiment = built("model=llama2-7b", "method=spectraqlora")
    assert experiment.dataset.name == "math10k" and experiment.dataset.train_on_inputs
    assert list(experiment.benchmark.tasks) == ["gsm8k", "aqua", "boolq"]
    training = experiment.training
    assert (training.epochs, training.batch_size, training.micro_batch_size) == (3.0, 16, 4)
    assert (training.learning_rate, training.warmup_steps, training.schedule) == (3e-4, 100, "linear")
    assert experiment.quantization.label == "nf4-double"


def test_the_embedded_model_stays_unquantized_unless_asked() -> None:
    assert built("method=spectraqlora").quantization.label == "none"
    assert built("method=spectraqlora", "quantization=nf4").quantization.label == "nf4-double"


def test_the_command_line_wins_over_a_method() -> None:
    assert type(built("method=spectraqlora").rank_policy).__name__ == "SnrTop"
    assert type(built("method=spectraqlora", "rank_policy=uniform").rank_policy).__name__ == "Uniform"
    assert built("model=tiny", "dataset=gsm8k").dataset.name == "gsm8k"


def test_an_arm_sets_method_and_options() -> None:
    experiment = built("arm=tiny/spectral")
    assert experiment.method.name == "spectraqlora"
    assert experiment.config["rank_policy"]["rank"] == 8


def test_an_identity_ignores_what_changes_no_result(tmp_path: Path) -> None:
    same = {
        built(*options).run_id
        for options in ((), ("tracking.mode=disabled",), (f"spectrum.cache={tmp_path}",), ("spectrum.workers=1",))
    }
    other = {built(*options).run_id for options in (("seed=1",), ("rank_policy.rank=4",), ("method=spectraqlora",))}
    assert len(same) == 1
    assert len(other) == 3 and not same & other


def test_an_identity_goes_by_the_content_of_a_path(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    one.write_text('{"instruction": "a", "output": "b"}\n')
    two.write_text(one.read_text())
    ids = [built("dataset=jsonl", f"dataset.data_dir={path}").run_id for path in (one, two)]
    assert ids[0] == ids[1]
    two.write_text('{"instruction": "a", "output": "c"}\n')
    assert built("dataset=jsonl", f"dataset.data_dir={two}").run_id != ids[0]


def test_the_record_can_be_run_again() -> None:
    experiment = built("method=spectraqlora")
    assert run_id(experiment.config) == experiment.run_id


def test_help_has_a_line_for_every_choice_and_every_option() -> None:
    text = help_text().splitlines()
    for file in CHOICES:
        choice = str(file.relative_to(CONF / file.relative_to(CONF).parts[0]).with_suffix(""))
        assert any(line.split()[:1] == [choice] and len(line.split()) > 3 for line in text), choice
    top = ("seed", "figures", "adapter", "rescore")
    groups = ("training.learning_rate", "rank_policy.top_fraction", "benchmark.limit", "model.path")
    nested = ("dataset.rows.instruction", "rank_policy.high.rank", "dataset.data_seed")
    for option in (*groups, *top, *nested):
        assert any(line.strip().startswith(f"{option}=") and len(line.split()) > 3 for line in text), option


def test_a_budget_lists_what_it_needs() -> None:
    for kind in ("params", "percent"):
        with pytest.raises(ConfigError, match=rf"budget\.kind={kind} needs budget\.value"):
            built(f"budget={kind}")


def test_a_budget_matches_another_method_with_the_policy_that_it_brings() -> None:
    budget = built("method=lora_ar", "budget=match", "budget.of=spectraqlora").budget
    assert (budget.kind, budget.value, budget.of.method.name) == ("match", None, "spectraqlora")
    assert budget.of.rank_policy == build_parts("spectraqlora/snr_top", option="budget.of", seed=0).rank_policy
    assert budget.of.budget.kind == "none"


def test_the_method_that_is_matched_has_options_of_its_own() -> None:
    run = built(
        "rank_policy=snr_top", "rank_policy.rank=4", "budget=match", "budget.of='dora/uniform rank_policy.rank=32'"
    )
    other = run.budget.of
    assert (run.rank_policy.rank, other.rank_policy.rank, other.method.use_dora) == (4, 32, True)  # type: ignore[attr-defined]


def test_what_is_matched_may_share_factors_or_keep_a_budget() -> None:
    parts = build_parts("sgm/uniform budget=params budget.value=5000", option="budget.of", seed=0)
    assert type(parts.grouping).__name__ == "Sgm"
    assert (parts.budget.kind, parts.budget.value) == ("params", 5000)


def test_controls_can_be_matched_with_the_policy_that_they_permute() -> None:
    parts = build_parts("lora/random rank_policy.of=depth rank_policy.seed=5", option="budget.of", seed=0)
    policy = parts.rank_policy
    assert (type(policy).__name__, type(policy.of).__name__, policy.seed) == ("Random", "Depth", 5)  # type: ignore[attr-defined]


def test_a_control_draws_by_the_run_s_seed_unless_it_has_its_own() -> None:
    drawn = [built("rank_policy=random", f"seed={seed}") for seed in (3, 4)]
    assert [(run.rank_policy.seed, run.config["rank_policy"]["seed"]) for run in drawn] == [(3, None), (4, None)]  # type: ignore[attr-defined]
    assert len({run.run_id for run in drawn}) == 2
    assert built("rank_policy=random", "rank_policy.seed=5", "seed=3").rank_policy.seed == 5  # type: ignore[attr-defined]
    matched = built("method=lora_ar", "budget=match", "budget.of=lora/random", "seed=3").budget.of
    assert matched.rank_policy.seed == 3
    assert build_parts("lora/random seed=7", option="budget.of", seed=3).rank_policy.seed == 7  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("", r"against= names no method: there is adalora, .*spectrum\."),
        ("/uniform", r"against=/uniform names no method: there is adalora"),
        ("lorra", r"against=lorra names no method: .*\. Did you mean lora or rslora"),
        ("uniform", r"against=uniform names no method"),
        ("lora/unifrom", r"against=lora/unifrom names no rank_policy: there is depth, .* Did you mean uniform\?"),
        ("lora/uniform/8", r"against=lora/uniform/8 names no rank_policy"),
        ("lora rank_policy.rnk=3", r"rank_policy\.rnk is no option\. Did you mean rank_policy\.rank"),
        ("lora rank_policy.rank=x", r"rank_policy\.rank='x': input should be a valid integer"),
        ("lora/uniform rank_policy.rank=0", r"rank_policy\.rank=0: input should be greater than or equal to 1"),
        ("lora rank=32", r"rank is no option"),
        ("lora rank_policy=unifrm", r"rank_policy=unifrm does not exist\. Did you mean uniform\?"),
        ("lora uniform", r"uniform is no option: write OPTION=VALUE"),
        ("prefix/uniform", r"method=prefix gives no matrix a rank, .* rank_policy=uniform"),
        ("lora/none", r"method=lora needs to know .* rank_policy=none chooses none"),
        ("eva/snr_top", r"method=eva starts from .* rank_policy=snr_top"),
        ("dora grouping=sgm", r"method=dora cannot share factors, as grouping=sgm asks"),
        ("full budget=percent budget.value=1", r"method=full has no ranks .* budget\.kind=percent"),
        ("lora/random rank_policy.of=inverse", r"rank_policy\.of.*inverse.* itself a control"),
        ("lora/random rank_policy.of=snr_tpo", r"rank_policy\.of=snr_tpo names no rank_policy: .*Did you mean snr_top"),
    ],
)
def test_another_plan_that_cannot_be_is_named(named: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_parts(named, option="planning.against", seed=0)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("budget.of=lorra", r"budget\.of=lorra names no method"),
        ("budget.of='lora budget=match'", r"budget\.of refers to a plan whose own budget is a match, .* to itself"),
        ("budget.of='lora budget=match budget.of=dora'", r"budget\.of refers to a plan whose own budget is a match"),
        ("budget.of=adapter_s/uniform", r"method=adapter_s gives no matrix a rank"),
        ("budget.of=null", r"budget\.kind=match needs budget\.of"),
        ("budget.of=3", r"budget\.of=3 names no method"),
        ("budget.of=[lora]", r"budget\.of=\['lora'\] names no method"),
        ("budget.value=3", r"budget\.value means nothing with budget\.kind=match"),
    ],
)
def test_a_match_that_cannot_be_is_refused_before_anything_loads(said: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        built("budget=match", said)


def test_a_plan_can_be_matched_without_its_file() -> None:
    with pytest.raises(ConfigError, match=r"budget\.of means nothing with budget\.kind=none"):
        built("budget.of=lora")
    assert built("budget.kind=match", "budget.of=lora").budget.of.method.name == "lora"


def test_composing_beside_a_configuration_leaves_it_as_it_was() -> None:
    config = composed(["method=sgm", "budget=match", "budget.of=dora"])
    before = OmegaConf.to_yaml(config)
    build_experiment(config)
    assert OmegaConf.to_yaml(config) == before


def test_what_makes_another_plan_is_part_of_the_identity() -> None:
    ids = {built("budget=match", f"budget.of={of}").run_id for of in ("lora", "dora", "'lora rank_policy.rank=32'")}
    assert len(ids) == 3
    assert built("planning.against=dora").run_id == built().run_id


@pytest.mark.parametrize(
    ("option", "key"), [("training.trainer_options", "adam_beta1"), ("benchmark.generation", "num_beams")]
)
def test_options_that_are_mappings_take_any_key(option, key):
    group, name = option.split(".")
    config = composed([f"{option}={{{key}: 2}}"])
    assert plain(config)[group][name] == {key: 2}
    build_experiment(config)


def test_a_key_that_is_added_to_a_mapping_needs_a_plus():
    with pytest.raises(ConfigError, match=r"training\.schedule_options has other keys .* write \+training"):
        composed(["training.schedule_options={num_cycles: 2}"])
    config = composed(["+training.schedule_options={num_cycles: 2}"])
    assert plain(config)["training"]["schedule_options"]["num_cycles"] == 2
