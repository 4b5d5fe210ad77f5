"""The functions for other people's scripts; oracles: the command's report and plan, what stock PEFT trains."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import pandas as pd
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from spectral_ft import analyze, export, plan, storage
from spectral_ft.api import drift, lora_config, overlap, spectral_frame
from spectral_ft.errors import CheckpointError, ConfigError, DataError, PlanError, RunError
from spectral_ft.stages import planning
from spectral_ft.types import AllocationPlan
from tests.conftest import EMBEDDED, call_entry

BASE = 1_803_072
UNIFORM = 116_736
"""Parameters of rank 8 on all 28 matrices of the embedded model."""


@pytest.fixture(autouse=True)
def no_application() -> Iterator[None]:
    """Outside of any Hydra application, as in most scripts."""
    GlobalHydra.instance().clear()
    yield
    GlobalHydra.instance().clear()


@pytest.fixture(scope="module")
def base() -> PreTrainedModel:
    """Without weights."""
    with torch.device("meta"):
        return LlamaForCausalLM(LlamaConfig.from_pretrained(EMBEDDED))


def adapted(base: PreTrainedModel, config: LoraConfig) -> PeftModel:
    with torch.device("meta"):
        model = LlamaForCausalLM(base.config)
    found: PeftModel = get_peft_model(model, config)
    return found


def trained(base: PreTrainedModel, config: LoraConfig) -> int:
    return sum(p.numel() for p in adapted(base, config).parameters() if p.requires_grad)


def planned(folder: Path, *options: str) -> AllocationPlan:
    """By the command."""
    given = ("figures=false", "model=hf", f"model.path={EMBEDDED}", "dataset.max_length=16", *options)
    assert call_entry(plan.main, f"hydra.run.dir={folder}", *given) == 0
    return storage.read_json(folder / "plan.json", AllocationPlan)


# ---- spectra


def test_the_frame_is_the_commands(tmp_path: Path) -> None:
    assert call_entry(analyze.main, "figures=false", "tracking.mode=disabled", f"hydra.run.dir={tmp_path}") == 0
    GlobalHydra.instance().clear()
    frame = spectral_frame(EMBEDDED)
    pd.testing.assert_frame_equal(frame, storage.read_report(tmp_path / "spectrum.parquet").frame())
    assert list(frame.columns[:6]) == ["name", "type", "side", "block", "rows", "cols"] and len(frame) == 28


def test_options_of_the_spectrum_reach_it() -> None:
    frame = spectral_frame(EMBEDDED, include="layers.2.self_attn", exclude="q_proj|k_proj", null_draws=1)
    assert set(frame.name) == {f"model.layers.2.self_attn.{kind}_proj" for kind in "ov"}
    assert {"snr_null", "snr_excess"} <= set(frame.columns)


def test_the_cache_is_used_where_it_is_wanted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRAL_FT_CACHE", str(tmp_path / "cache"))
    first = spectral_frame(EMBEDDED, cache=False)
    assert not list(tmp_path.rglob("*.npz"))
    assert spectral_frame(EMBEDDED).equals(first)
    assert len(list(tmp_path.rglob("*.npz"))) == 28


def test_a_frame_needs_no_torch() -> None:
    code = (
        "import sys; from spectral_ft.api import spectral_frame; "
        f"print(len(spectral_frame({str(EMBEDDED)!r}, include='q_proj')), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["4", "False"]


def test_a_folder_is_given_in_any_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EMBEDDED.parent)
    monkeypatch.setenv("HOME", str(EMBEDDED.parents[1]))
    for checkpoint in (EMBEDDED.name, str(EMBEDDED), Path("..") / "models" / "tiny", "~/models/tiny"):
        assert len(spectral_frame(checkpoint, include="layers.0.mlp.up_proj")) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"null_drws": 8}, ConfigError, r"spectrum\.null_drws is no option.*Did you mean.*null_draws"),
        ({"null_draws": "many"}, ConfigError, r"spectrum\.null_draws='many'.*integer"),
        ({"null_draws": -1}, ConfigError, r"spectrum\.null_draws=-1"),
        ({"include": "nothing_of_it"}, ConfigError, r"nothing_of_it.*28"),
    ],
)
def test_an_option_of_the_spectrum_that_cannot_be(options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        spectral_frame(EMBEDDED, **options)


def test_a_folder_without_a_checkpoint(tmp_path: Path) -> None:
    for function in (spectral_frame, lora_config):
        with pytest.raises(CheckpointError, match=rf"{tmp_path / 'none'} does not exist"):
            function(tmp_path / "none")
        with pytest.raises(CheckpointError, match=r"config\.json is missing"):
            function(tmp_path)


# ---- configurations


@pytest.mark.parametrize(
    ("policy", "options"),
    [
        ("uniform", {}),
        ("depth", {"last_rank": 12}),
        ("snr_top", {"rank": 4, "lora_alpha": 4, "top_fraction": 0.5}),
        ("snr_top", {"top_fraction": None, "threshold": 0.4, "column": "snr"}),
        ("ht_sr", {"select": "lowest", "target_modules": ["up_proj", "down_proj"]}),
        ("random", {"of": "ht_sr", "seed": 3}),
    ],
)
def test_a_configuration_says_what_the_command_plans(
    policy: str, options: dict[str, Any], base: PreTrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "estimated_memory", lambda *given: None)
    config = lora_config(EMBEDDED, policy, policy_options=options)
    assert type(config) is LoraConfig
    overrides = [f"rank_policy.{key}={'null' if value is None else value}" for key, value in options.items()]
    expected = planned(tmp_path / "plan", f"rank_policy={policy}", *overrides)
    model = adapted(base, config)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected.trainable_parameters
    sizes = {
        name: (layer.r["default"], layer.lora_alpha["default"])
        for name, layer in model.get_base_model().named_modules()
        if hasattr(layer, "lora_A")
    }
    assert sizes == {a.name: (a.rank, a.lora_alpha) for a in expected.adapted}


@pytest.mark.parametrize(
    ("budget", "target", "dora"),
    [
        (60_000, 60_000, False),
        (60_000, 60_000, True),
        ("0.5%", 9_060, False),
        ("2 %", 36_797, True),
    ],
)
def test_a_budget_is_a_number_or_a_percentage(
    budget: int | str, target: int, dora: bool, base: PreTrainedModel
) -> None:
    options = {"use_dora": True} if dora else {}
    count = trained(base, lora_config(EMBEDDED, "snr_top", budget, **options))
    assert 0 <= target - count < 192 + 512
    if isinstance(budget, str) and "%" in budget:
        assert 100 * count / (BASE + count) <= float(budget.rstrip("% "))


def test_without_a_budget_the_ranks_are_the_policys(base: PreTrainedModel) -> None:
    config = lora_config(EMBEDDED)
    assert (config.r, config.lora_alpha, config.rank_pattern, config.task_type) == (8, 16, {}, "CAUSAL_LM")
    assert trained(base, config) == UNIFORM


def test_magnitudes_are_counted_with_dora(base: PreTrainedModel) -> None:
    magnitudes = 4 * (5 * 192 + 2 * 512)
    assert trained(base, lora_config(EMBEDDED, use_dora=True)) == UNIFORM + magnitudes
    least = UNIFORM // 8 + magnitudes
    config = lora_config(EMBEDDED, budget=least, use_dora=True)
    assert config.use_dora and config.r == 1 and trained(base, config) == least
    with pytest.raises(PlanError, match=rf"budget of {least - 1:,} parameters.*takes {least:,}"):
        lora_config(EMBEDDED, budget=least - 1, use_dora=True)


def test_options_of_peft_are_passed_on() -> None:
    config = lora_config(EMBEDDED, lora_dropout=0.25, use_rslora=True, task_type="FEATURE_EXTRACTION")
    assert (config.lora_dropout, config.use_rslora, config.task_type) == (0.25, True, "FEATURE_EXTRACTION")


def test_config_json_is_enough_for_shapes(tmp_path: Path) -> None:
    shutil.copy(EMBEDDED / "config.json", tmp_path)
    assert lora_config(tmp_path, "depth").target_modules == lora_config(EMBEDDED, "depth").target_modules
    with pytest.raises(CheckpointError, match=r"no weights, and the plan needs snr of them.*uniform, depth"):
        lora_config(tmp_path, "snr_top")


def test_module_names_are_escaped(base: PreTrainedModel) -> None:
    config = lora_config(EMBEDDED, "snr_tiers")
    assert config.rank_pattern and all(re.fullmatch(key, key.replace("\\", "")) for key in config.rank_pattern)
    assert not any(re.fullmatch(key, key.replace("\\.", "x")) for key in config.rank_pattern)


@pytest.mark.parametrize(
    ("budget", "error", "message"),
    [
        ("many", ConfigError, r"budget\.value='many'.*valid number"),
        ("%", ConfigError, r"budget\.value=''.*valid number"),
        ("100%", ConfigError, r"budget\.value=100 is no percentage"),
        (0, ConfigError, r"budget\.value=0.*greater than 0"),
        (0.5, ConfigError, r"budget\.value=0\.5 is no number of parameters"),
        (True, ConfigError, r"budget\.value=True.*valid number"),
        (100, PlanError, r"budget of 100 parameters is below rank 1.*takes 14,592"),
    ],
)
def test_a_budget_that_cannot_be(budget: Any, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        lora_config(EMBEDDED, "uniform", budget)


@pytest.mark.parametrize(
    ("policy", "options", "error", "message"),
    [
        ("snr_topp", {}, ConfigError, r"snr_topp.*Did you mean snr_top"),
        ("none", {}, ConfigError, r"rank_policy=none chooses none"),
        ("gradient", {}, ConfigError, r"rank_policy=gradient reads gradient.*needs training data.*spectral_ft\.plan"),
        ("random", {"of": "gradient"}, ConfigError, r"rank_policy=random reads gradient.*needs training data"),
        ("snr_top", {"column": "gradient"}, ConfigError, r"rank_policy=snr_top reads gradient.*needs training data"),
        ("snr_top", {"colum": "snr"}, ConfigError, r"rank_policy\.colum is no option.*rank_policy\.column"),
        ("snr_top", {"rank": 8.5}, ConfigError, r"rank_policy\.rank=8\.5.*integer"),
        ("snr_top", {"threshold": 1e9, "top_fraction": None}, PlanError, r"threshold=1e\+09 on snr selects none"),
        ("uniform", {"rank": 193}, PlanError, r"rank=193 .*at most 192"),
    ],
)
def test_a_policy_that_cannot_be(policy: str, options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        lora_config(EMBEDDED, policy, policy_options=options)


# ---- the drift of a run


@pytest.fixture
def without_drift(finished: Path, tmp_path: Path) -> Path:
    """A finished run as an earlier version left it, which knew neither drift nor manifest."""
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    for name in ("result.json", "run.json"):
        record = json.loads((folder / name).read_text())
        del record["config"]["drift"]
        (folder / name).write_text(json.dumps(record))
    for name in ("drift.parquet", "drift.csv", "figures/drift.png", "manifest.json"):
        (folder / name).unlink()
    return folder


def test_the_drift_of_a_run_is_read_or_measured(finished: Path, without_drift: Path) -> None:
    told = drift(finished)
    assert told is not None and len(told) == 7
    pd.testing.assert_frame_equal(told, pd.read_parquet(finished / "drift.parquet"))
    pd.testing.assert_frame_equal(drift(without_drift), told)
    assert all((without_drift / name).exists() for name in ("drift.parquet", "drift.csv", "figures/drift.png"))
    plan = storage.read_json(finished / "plan.json", AllocationPlan)
    assert set(told["name"]) == {allocation.name for allocation in plan.adapted}


def test_options_of_the_drift_are_measured_and_not_kept(without_drift: Path) -> None:
    found = drift(without_drift, top=3, threshold=1, columns=["snr_mp"])
    assert found is not None and set(found["top"]) == {3} and set(found["intruders_left"]) == {3}
    assert "snr_mp_after" in found and "snr_after" not in found
    assert not (without_drift / "drift.parquet").exists()
    with pytest.raises(ConfigError, match=r"drift\.tops"):
        drift(without_drift, tops=3)
    with pytest.raises(RunError, match="does not exist"):
        drift(without_drift / "nowhere")


def test_a_run_of_an_earlier_version_is_exported(without_drift: Path) -> None:
    assert call_entry(export.main, f"run={without_drift}", "to=[axolotl]") == 0


# ---- values on their way through Hydra's grammar


NAMES = ("it's, a = [b] {c} (d): 50% of $e", '~ünïcode, a#b;c `d` "e" <f>', "back\\slash and trailing\\", "null", "7")


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_may_have_any_name(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    shutil.copy(EMBEDDED / "config.json", tmp_path / name)
    assert len(lora_config(tmp_path / name).target_modules or ()) == 28


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("(q|v)_proj", 8),
        (r"layers\.\d\.mlp\.(up|down)_proj", 8),
        (r"model\.layers\.[0-1]\.mlp\.up_proj", 2),
    ],
)
def test_a_regular_expression_arrives_as_it_was_given(pattern: str, count: int) -> None:
    config = lora_config(EMBEDDED, policy_options={"target_modules": pattern})
    assert len(config.target_modules or ()) == count


# ---- inside of a Hydra application


@pytest.mark.parametrize("policy", ["uniform", "snr_top"])
def test_inside_of_somebody_elses_hydra_application(policy: str, tmp_path: Path) -> None:
    outside = lora_config(EMBEDDED, policy, 60_000)
    (tmp_path / "theirs.yaml").write_text("mine: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        application = GlobalHydra.instance().hydra
        inside = lora_config(EMBEDDED, policy, 60_000)
        assert len(spectral_frame(EMBEDDED, include="q_proj")) == 4
        assert GlobalHydra.instance().hydra is application
        assert hydra.compose("theirs").mine == 1
    assert inside.to_dict() == outside.to_dict()


def test_an_error_leaves_somebody_elses_application_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text("mine: 1\n")
    with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
        with pytest.raises(ConfigError, match="Did you mean snr_top"):
            lora_config(EMBEDDED, "snr_topp")
        assert hydra.compose("theirs").mine == 1


def test_outside_of_one_none_is_left_behind() -> None:
    lora_config(EMBEDDED)
    assert not GlobalHydra.instance().is_initialized()
    with pytest.raises(ConfigError):
        lora_config(EMBEDDED, "snr_topp")
    assert not GlobalHydra.instance().is_initialized()


# ---- leakage


PROBLEM = "Mia has 3 red kites and buys 4 more in the shop. How many kites are hers?"
OTHERS = ["The sea is deep.", "Why is the sky so blue in summer?"]


def test_an_overlap_is_a_row_a_pair() -> None:
    training = [OTHERS[0], PROBLEM.lower(), PROBLEM.replace("Mia", "Tom").replace("hers", "his"), PROBLEM]
    found = overlap(training, [*OTHERS, PROBLEM])
    assert list(found.columns) == ["kind", "similarity", "train", "test", "train_text", "test_text"]
    assert [tuple(row) for row in found[["kind", "train", "test"]].to_numpy()] == [
        ("exact", 0, 0),
        ("exact", 1, 2),
        ("exact", 3, 2),
        ("near", 2, 2),
    ]
    assert found["train_text"].tolist() == [training[place] for place in found["train"]]
    assert (found["test_text"] == pd.Series([*OTHERS, PROBLEM]).loc[found["test"]].to_numpy()).all()


def test_without_an_overlap_there_are_no_rows() -> None:
    assert overlap(OTHERS, [PROBLEM]).empty and overlap([], [PROBLEM]).empty and overlap(OTHERS, []).empty


@pytest.mark.parametrize("row", [{"question": PROBLEM, "answer": "7"}, {"instruction": PROBLEM}, {"text": PROBLEM}])
def test_files_and_folders_are_read_in_any_known_form(row: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(json.dumps(row))
    (tmp_path / "test.json").write_text(json.dumps([{"original_text": PROBLEM}]))
    for train, test in ((tmp_path, tmp_path), (str(tmp_path / "train.jsonl"), [PROBLEM])):
        assert overlap(train, test)["kind"].tolist() == ["exact"]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("missing.jsonl", r"^train=.*missing\.jsonl does not exist"),
        ("unknown.json", r"unknown\.json, row 1: no column .*instruction, question.*its columns are prompt"),
        ("number.json", r"number\.json, row 1.*question"),
        ([PROBLEM, 3], r"^train, text 1: expected a text, found int\.$"),
    ],
)
def test_what_holds_no_texts_is_named(train: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "unknown.json").write_text('[{"prompt": "a"}]')
    (tmp_path / "number.json").write_text('[{"question": [3]}]')
    with pytest.raises(DataError, match=message):
        overlap(tmp_path / train if isinstance(train, str) else train, OTHERS)


def test_the_overlap_of_the_public_files(shared_data: Path) -> None:
    copies = shared_data / "llm_adapters"
    found = overlap(copies / "math_data.json", shared_data / "gsm8k")
    assert found.groupby("kind")["test"].nunique().to_dict() == {"exact": 1055}
    assert overlap(copies / "mawps" / "trainset.json", copies / "mawps")["test"].nunique() == 28 + 30
