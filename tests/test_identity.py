"""Oracle: changes of a configuration that do, or do not, change a result."""

import copy
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectral_ft.identity import run_id
from tests.oracles import law

CONFIG = {
    "seed": 1,
    "model": {"path": None, "id": "org/name", "dtype": "auto"},
    "dataset": {"data_dir": None, "limit": 100},
    "benchmark": {"data_dir": None, "tasks": {"gsm8k": {"name": "gsm8k"}}, "cache": "/here"},
    "spectrum": {"include": None, "workers": 2, "cache": "/here"},
    "probe": {"batches": 8, "sketch_dim": 64},
    "budget": {"kind": "match", "value": None, "of": "lora"},
    "grouping": {"similarity": "gram"},
    "analysis": {"columns": None},
    "planning": {"against": None},
    "figures": True,
    "tracking": {"mode": "auto", "project": "p"},
}
options = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3),
    lambda inner: st.dictionaries(st.from_regex("[a-z]{1,5}", fullmatch=True), inner, max_size=4),
)


def changed(option, value):
    config = copy.deepcopy(CONFIG)
    *groups, key = option.split(".")
    inner = config
    for group in groups:
        inner = inner[group]
    inner[key] = value
    return config


def test_an_identity_is_twelve_hexadecimal_digits():
    assert re.fullmatch("[0-9a-f]{12}", run_id(CONFIG))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("seed", 2),
        ("seed", "1"),
        ("model.id", "org/other"),
        ("dataset.limit", None),
        ("benchmark.tasks.gsm8k.name", "g"),
        ("spectrum.include", "q_proj"),
        ("spectrum.null_draws", 8),
        ("probe.batches", 9),
        ("probe.sketch_dim", 32),
        ("budget.of", "lora/uniform rank_policy.rank=32"),
        ("budget.value", 0.48),
        ("grouping.similarity", "cosine"),
    ],
)
def test_what_changes_a_result_changes_the_identity(option, value):
    assert run_id(changed(option, value)) != run_id(CONFIG)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("tracking.mode", "disabled"),
        ("tracking", {}),
        ("spectrum.workers", None),
        ("spectrum.cache", False),
        ("spectrum.memory_gib", 3),
        ("spectrum.device", "cuda"),
        ("benchmark.cache", "/there"),
        ("analysis.columns", ["snr"]),
        ("planning.against", "dora/uniform"),
        ("planning", {}),
        ("figures", False),
        ("hydra", {"run": {"dir": "/there"}}),
    ],
)
def test_what_changes_no_result_does_not(option, value):
    assert run_id(changed(option, value)) == run_id(CONFIG)


@pytest.mark.parametrize("option", ["planning_extra", "spectrum.cached", "model.figures", "model.hydra"])
def test_what_only_looks_like_an_option_that_is_left_out_counts(option):
    assert run_id(changed(option, 1)) != run_id(CONFIG)


@law
@given(st.dictionaries(st.from_regex("[a-z]{1,5}", fullmatch=True), options, max_size=5))
def test_the_order_of_options_is_irrelevant(config):
    def reverse(value):
        return {key: reverse(value[key]) for key in reversed(value)} if isinstance(value, dict) else value

    assert run_id(reverse(config)) == run_id(config)


@pytest.mark.parametrize("option", ["model.path", "dataset.data_dir", "benchmark.data_dir"])
def test_the_content_of_a_folder_counts_and_not_its_name(tmp_path, option):
    for name, content in {"one": "1", "copy": "1", "other": "2"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(content)
    one, copied, other = (run_id(changed(option, str(tmp_path / name))) for name in ("one", "copy", "other"))
    assert one == copied
    assert one != other


def test_a_folder_that_is_missing_goes_by_its_name():
    one, other = (run_id(changed("model.path", path)) for path in ("/nowhere/one", "/nowhere/other"))
    assert one != other


def test_of_a_run_whose_adapter_is_scored_only_the_adapter_counts(tmp_path):
    run, alone = tmp_path / "run", tmp_path / "alone"
    for folder in (run / "adapter", alone):
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_text("1")
    named = [changed("adapter", name) for name in (str(run), str(run / "adapter"), str(alone))]
    before = {run_id(config) for config in (*named, changed("adapter", str(run)))}
    assert len(before) == 1
    listed = run_id(changed("adapter", [str(run), str(alone)]))
    (run / "drift.csv").write_text("measured later")
    assert {run_id(config) for config in named} == before
    assert run_id(changed("adapter", [str(run), str(alone)])) == listed
    (run / "adapter" / "adapter_model.safetensors").write_text("2")
    assert run_id(named[0]) not in before and run_id(named[2]) in before


def test_of_answers_that_are_read_again_only_scores_and_samples_count(tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "scores.json").write_text("[]")
    (tmp_path / "samples" / "aqua.jsonl").write_text("1")
    config = changed("rescore", str(tmp_path))
    before = run_id(config)
    (tmp_path / "report.html").write_text("written later")
    assert run_id(config) == before
    (tmp_path / "samples" / "aqua.jsonl").write_text("2")
    assert run_id(config) != before
    (tmp_path / "scores.json").unlink()
    (tmp_path / "samples" / "aqua.jsonl").unlink()
    (tmp_path / "samples").rmdir()
    assert run_id(config) != before  # nothing to read, which the stage will say
