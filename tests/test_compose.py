"""The configuration tree; oracle: every file of every group composes and builds."""

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from spectral_ft.compose import build_experiment, plain, register
from spectral_ft.configuration import CONF
from spectral_ft.experiment import Experiment
from spectral_ft.identity import run_id
from spectral_ft.option_help import help_text
from spectral_ft.schema import GROUPS, SHORTCUTS

FILES = sorted(path for path in CONF.rglob("*.yaml") if path.name != "config.yaml")
CHOICES = [path for path in FILES if not path.name.startswith("_")]


def composed(*overrides: str) -> object:
    register()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def built(*overrides: str) -> Experiment:
    return build_experiment(composed(*overrides))  # type: ignore[arg-type]


def test_the_tree_holds_every_group_and_nothing_else() -> None:
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == {*GROUPS, *SHORTCUTS}
    assert len(FILES) == len(list(CONF.glob("*/**/*.yaml"))) == len(list(CONF.rglob("*.yaml"))) - 1 == 48
    assert len(CHOICES) == 44


@pytest.mark.parametrize("file", CHOICES, ids=lambda file: str(file.relative_to(CONF)))
def test_every_choice_composes_and_builds(file: Path) -> None:
    group = file.relative_to(CONF).parts[0]
    choice = file.relative_to(CONF / group).with_suffix("")
    extra = ["model.id=some/model"] if choice == Path("hf") else []
    extra += ["dataset.data_dir=data.jsonl"] if choice == Path("jsonl") else []
    overrides = [f"{group}={choice}", *extra]
    if group == "experiment":
        config = composed(*overrides)
        assert "hydra" not in plain(config)  # type: ignore[arg-type]
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
    for option in ("training.learning_rate", "rank_policy.top_fraction", "benchmark.limit", "model.path", "seed"):
        assert any(line.strip().startswith(f"{option}=") and len(line.split()) > 3 for line in text), option
