"""Oracle: what the command says and leaves for the embedded model, whole and damaged in known places."""

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from safetensors.torch import load_file, save_file

from spectral_ft import analyze
from spectral_ft.models.tensors import INDEX
from spectral_ft.storage import read_report
from tests.conftest import EMBEDDED, Called, call_entry

Analyze = Callable[..., Called]
ONE = "model.layers.1.mlp.up_proj"
SMALL = r"spectrum.include='layers\.[01]\.(mlp|self_attn\.q)'"
"""Eight matrices of four types."""


@pytest.fixture
def analysed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Analyze:
    """Calls `spectral_ft.analyze` in this process; its files go to `run`, or where it is told."""
    monkeypatch.chdir(tmp_path)

    def call(*overrides: str, folder: str = "run") -> Called:
        capfd.readouterr()
        code = call_entry(analyze.main, "tracking.mode=disabled", f"hydra.run.dir={tmp_path / folder}", *overrides)
        return Called(code, *capfd.readouterr())

    return call


def sentence(called: Called) -> str:
    """What a failed command says."""
    assert called.code == 1
    assert "Traceback" not in called.err
    return called.err[called.err.index("error: ") :]


def table(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "spectrum.csv").set_index("name")


def all_figures(folder: Path) -> set[str]:
    return {path.name for path in (folder / "figures").iterdir()} if (folder / "figures").exists() else set()


def test_a_model_leaves_a_report_a_table_and_figures(analysed: Analyze, tmp_path: Path) -> None:
    called = analysed()
    assert called.code == 0
    run = tmp_path / "run"
    columns = ("snr", "alpha_hill", "num_spikes_calibrated")
    assert all_figures(run) == {*(f"heat-map-{column}.png" for column in columns), "tails.png", "spectra.png"}
    report = read_report(run / "spectrum.parquet")
    assert len(report.matrices) == len(table(run)) == 28
    assert "medians over 28 matrices by module type" in called.out
    for spectrum in report.matrices:
        assert table(run).loc[spectrum.matrix.name, "snr"] == pytest.approx(spectrum.columns["snr"], rel=1e-12)
    listed = called.out.splitlines()[-6:]
    assert {Path(line) for line in listed} == {run / "spectrum.csv", *(run / "figures" / f for f in all_figures(run))}


def test_without_figures_none_are_drawn(analysed: Analyze, tmp_path: Path) -> None:
    assert analysed("figures=false").code == 0
    assert all_figures(tmp_path / "run") == set()
    assert len(table(tmp_path / "run")) == 28


def test_the_matrices_and_columns_that_are_drawn_can_be_chosen(analysed: Analyze, tmp_path: Path) -> None:
    assert analysed(SMALL, "analysis.columns=[stable_rank]", "analysis.matrices=q_proj").code == 0
    assert all_figures(tmp_path / "run") == {"heat-map-stable_rank.png", "tails.png", "spectra.png"}


@pytest.mark.parametrize(
    ("pattern", "words"), [("zzz", "finds none of the 8 matrices"), ("'('", "is no regular expression")]
)
def test_a_pattern_of_drawn_matrices_that_cannot_be_is_named(analysed: Analyze, pattern: str, words: str) -> None:
    said = sentence(analysed(SMALL, f"analysis.matrices={pattern}"))
    assert "analysis.matrices=" in said and words in said


@pytest.mark.parametrize("packing", ["nf4", "nf4-double", "int8"])
def test_packed_weights_are_compared(analysed: Analyze, tmp_path: Path, packing: str) -> None:
    called = analysed(SMALL, "figures=false", f"analysis.drift={packing}")
    assert called.code == 0
    assert "Spearman" in called.out
    assert re.search(r"selected by snr, top 50 % of each type: Jaccard [01]\.\d{3}", called.out)
    drift = pd.read_csv(tmp_path / "run" / "spectrum-drift.csv", index_col="metric")
    whole, packed = (read_report(tmp_path / "run" / f"spectrum{end}.parquet") for end in ("", f"-{packing}"))
    before, after = (report.frame().set_index("name")["spectral_norm"] for report in (whole, packed))
    row = drift.loc["spectral_norm"]
    assert row["matrices"] == 8
    assert row["largest_change"] == pytest.approx((after / before - 1).abs().max())
    assert 0 < row["largest_change"] < 0.2
    assert row["spearman"] == pytest.approx(before.corr(after, method="spearman"))


def test_another_report_is_compared(analysed: Analyze, tmp_path: Path) -> None:
    assert analysed(SMALL, "figures=false", folder="first").code == 0
    called = analysed(SMALL, "figures=false", f"analysis.drift={tmp_path / 'first' / 'spectrum.parquet'}")
    assert called.code == 0
    assert "Jaccard 1.000" in called.out
    drift = pd.read_csv(tmp_path / "run" / "spectrum-drift.csv", index_col="metric")
    assert drift["largest_change"].dropna().eq(0).all() and drift.loc["snr", "matrices"] == 8


def test_a_report_of_other_matrices_cannot_be_compared(analysed: Analyze, tmp_path: Path) -> None:
    assert analysed(SMALL, "figures=false", folder="first").code == 0
    other = f"analysis.drift={tmp_path / 'first' / 'spectrum.parquet'}"
    said = sentence(analysed("spectrum.include=q_proj", "figures=false", other))
    assert "cannot be compared" in said


def test_what_cannot_be_compared_is_named(analysed: Analyze) -> None:
    said = sentence(analysed(SMALL, "figures=false", "analysis.drift=nf5"))
    assert "analysis.drift='nf5' is neither nf4, nf4-double, int8 nor a file" in said


SCAN = {
    "lm_head": {"snr": 9.0, "type": "lm_head"},
    **{f"model.layers.{block}.mlp.up_proj": {"snr": 1.0 + block, "type": "mlp.up_proj"} for block in range(11)},
    "model.layers.0.mlp.down_proj": {"snr": math.inf, "type": "mlp.down_proj"},
    "model.layers.1.mlp.down_proj": {"snr": math.nan, "type": "mlp.down_proj"},
}


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "snr_results_org-name.json"
    path.write_text(json.dumps(SCAN))
    return path


def test_a_published_scan_is_shown_and_drawn(analysed: Analyze, tmp_path: Path, scan: Path) -> None:
    called = analysed(f"analysis.scan={scan}")
    assert called.code == 0
    assert "org-name: medians over 13 matrices by" in called.out
    assert all_figures(tmp_path / "run") == {"heat-map-snr.png"}
    snr = table(tmp_path / "run")["snr"]
    assert snr["model.layers.10.mlp.up_proj"] == 11 and snr["model.layers.0.mlp.down_proj"] == math.inf
    assert math.isnan(snr["model.layers.1.mlp.down_proj"]) and "lm_head" not in snr


def test_a_scan_has_no_weights_to_pack(analysed: Analyze, scan: Path) -> None:
    said = sentence(analysed(f"analysis.scan={scan}", "figures=false", "analysis.drift=nf4"))
    assert "analysis.drift=nf4 needs the weights, and analysis.scan has none" in said


def test_a_scan_can_be_compared_with_a_report(analysed: Analyze, tmp_path: Path) -> None:
    assert analysed(SMALL, "figures=false", "analysis.export=[spectrum]", folder="first").code == 0
    (path,) = (tmp_path / "first").glob("snr_results_*.json")
    other = tmp_path / "first" / "spectrum.parquet"
    called = analysed(f"analysis.scan={path}", "figures=false", f"analysis.drift={other}")
    assert called.code == 0
    drift = pd.read_csv(tmp_path / "run" / "spectrum-drift.csv", index_col="metric")
    assert list(drift.index) == ["snr"]
    assert drift.loc["snr", "largest_change"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("content", [None, "[]", "{"])
def test_what_is_no_scan_is_named(analysed: Analyze, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "scan.json").write_text(content)
    said = sentence(analysed(f"analysis.scan={tmp_path / 'scan.json'}", "figures=false"))
    assert "scan.json is no scan of Spectrum" in said


def test_both_forms_are_exported(analysed: Analyze, tmp_path: Path) -> None:
    called = analysed("figures=false", "analysis.export=[spectrum,axolotl]")
    assert called.code == 0
    run = tmp_path / "run"
    snr = table(run)["snr"]
    (path,) = run.glob("snr_results_*.json")
    written = {name: entry["snr"] for name, entry in json.loads(path.read_text()).items()}
    assert written == pytest.approx(snr.to_dict())
    patterns = yaml.safe_load((run / "unfrozen_parameters.yaml").read_text())["unfrozen_parameters"]
    parameters = list(load_file(EMBEDDED / "model.safetensors"))
    matched = [[name for name in parameters if re.match(pattern, name)] for pattern in patterns]
    assert all(len(names) == 1 for names in matched)
    chosen = {names[0].removesuffix(".weight") for names in matched}
    # The higher half of each type: two of four blocks.
    assert chosen == {
        name for _, rows in snr.groupby(table(run)["type"]) for name in rows.sort_values(ascending=False).index[:2]
    }
    assert str(path) in called.out and str(run / "unfrozen_parameters.yaml") in called.out


def test_the_exported_share_and_the_embeddings_can_be_chosen(analysed: Analyze, tmp_path: Path) -> None:
    options = ("analysis.export=[axolotl]", "analysis.top_fraction=0.25", "analysis.column=stable_rank")
    assert analysed("figures=false", *options, "analysis.embeddings=true").code == 0
    text = (tmp_path / "run" / "unfrozen_parameters.yaml").read_text()
    patterns = yaml.safe_load(text)["unfrozen_parameters"]
    assert len(patterns) == 7 + 2
    assert sum(bool(re.match(pattern, "lm_head.weight")) for pattern in patterns) == 1
    frame = table(tmp_path / "run")
    highest = {rows["stable_rank"].idxmax() for _, rows in frame.groupby("type")}
    assert {name for name in frame.index if any(re.match(p, f"{name}.weight") for p in patterns)} == highest


@pytest.mark.parametrize("option", ["analysis.columns=[snr,snrr]", "analysis.column=snrr"])
def test_an_unknown_column_is_named(analysed: Analyze, option: str) -> None:
    said = sentence(analysed(SMALL, "figures=false", option))
    assert "the report has no column 'snrr'" in said and "alpha_hill" in said


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("analysis.top_fraction=0.0", "top_fraction=0.0"),
        ("analysis.export=[gguf]", "gguf"),
        ("analysis.embeddings=3", "embeddings"),
        ("spectrum.edge_level=0.9", "spectrum.edge_level=0.9"),
        ("spectrum.device=gpu", "spectrum.device='gpu'"),
        ("spectrum.memory_gib=0", "memory_gib"),
    ],
)
def test_a_wrong_option_is_named(analysed: Analyze, option: str, words: str) -> None:
    assert words in sentence(analysed("figures=false", option))


def damaged(folder: Path, name: str = ONE) -> str:
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{name}.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return f"model.path={folder}"


def test_one_damaged_matrix_is_named_and_the_others_are_shown(
    analysed: Analyze, tmp_path: Path, checkpoint_copy: Path
) -> None:
    called = analysed(damaged(checkpoint_copy))
    said = sentence(called)
    assert said.startswith(f"error: {ONE}.weight cannot be analysed: 1 of ")
    assert "medians over 28 matrices" in called.out
    frame = table(tmp_path / "run")
    assert frame.index[frame["spectral_norm"].isna()].tolist() == [ONE]
    assert frame["snr"].notna().sum() == 27
    assert "cannot be analysed" in frame.loc[ONE, "reasons"]
    assert "heat-map-snr.png" in all_figures(tmp_path / "run")


def test_a_damaged_first_matrix_changes_nothing(analysed: Analyze, tmp_path: Path, checkpoint_copy: Path) -> None:
    first = "model.layers.0.mlp.down_proj"
    called = analysed(damaged(checkpoint_copy, first), "analysis.drift=int8", "analysis.export=[spectrum,axolotl]")
    assert f"{first}.weight cannot be analysed" in sentence(called)
    assert table(tmp_path / "run")["snr"].notna().sum() == 27
    assert "Jaccard" in called.out
    assert len(all_figures(tmp_path / "run")) == 5


NULLS = ("spectrum.null_draws=1", "spectrum.include=layers.0.mlp", "analysis.columns=[snr]")


def test_a_damaged_first_matrix_hides_no_null(analysed: Analyze, tmp_path: Path, checkpoint_copy: Path) -> None:
    path = damaged(checkpoint_copy, "model.layers.0.mlp.down_proj")
    called = analysed(path, *NULLS, "analysis.column=snr_excess")
    assert "cannot be analysed" in sentence(called)
    assert "null-snr.png" in all_figures(tmp_path / "run")


def test_the_same_command_goes_on_once_the_checkpoint_is_repaired(analysed: Analyze, checkpoint_copy: Path) -> None:
    path = damaged(checkpoint_copy)
    assert analysed(path, "figures=false").code == 1
    (checkpoint_copy / "model.safetensors").write_bytes((EMBEDDED / "model.safetensors").read_bytes())
    assert analysed(path, "figures=false").code == 0


def sharded(folder: Path) -> str:
    """One matrix in a shard of its own."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files = {name: "two.safetensors" if name == f"{ONE}.weight" else "one.safetensors" for name in tensors}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in files if files[name] == file}, folder / file, {"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": files}))
    return f"model.path={folder}"


def test_shards_have_the_report_of_one_file(analysed: Analyze, tmp_path: Path, checkpoint_copy: Path) -> None:
    assert analysed("figures=false", folder="whole").code == 0
    assert analysed(sharded(checkpoint_copy), "figures=false").code == 0
    pd.testing.assert_frame_equal(table(tmp_path / "run"), table(tmp_path / "whole"))


def test_a_missing_shard_is_named_and_the_others_are_shown(
    analysed: Analyze, tmp_path: Path, checkpoint_copy: Path
) -> None:
    path = sharded(checkpoint_copy)
    (checkpoint_copy / "two.safetensors").unlink()
    called = analysed(path, "figures=false")
    said = sentence(called)
    assert said.startswith(f"error: {ONE}.weight is missing: ") and "two.safetensors" in said
    frame = table(tmp_path / "run")
    assert len(frame) == 27 and frame["snr"].notna().all() and ONE not in frame.index


def test_a_checkpoint_in_torchs_format_has_the_same_report(
    analysed: Analyze, tmp_path: Path, checkpoint_copy: Path
) -> None:
    import torch

    torch.save(load_file(checkpoint_copy / "model.safetensors"), checkpoint_copy / "pytorch_model.bin")
    (checkpoint_copy / "model.safetensors").unlink()
    assert analysed(SMALL, "figures=false", folder="whole").code == 0
    assert analysed(SMALL, "figures=false", f"model.path={checkpoint_copy}").code == 0
    pd.testing.assert_frame_equal(table(tmp_path / "run"), table(tmp_path / "whole"))


def test_shuffles_add_columns_and_figures(analysed: Analyze, tmp_path: Path) -> None:
    called = analysed("spectrum.null_draws=8", "spectrum.include=layers.0.self_attn.k", "analysis.columns=[snr]")
    assert called.code == 0
    frame = table(tmp_path / "run")
    assert {"stable_rank_null", "stable_rank_excess", "stable_rank_z"} <= set(frame.columns)
    assert len(frame) == 1
    for _, row in frame.iterrows():
        excess = math.log(row["stable_rank"] / row["stable_rank_null"])
        assert row["stable_rank_excess"] == pytest.approx(excess)
    assert "null-snr.png" in all_figures(tmp_path / "run")


HEAVY = ("torch", "transformers", "peft", "lm_eval", "matplotlib", "scipy.stats")


def test_the_spectral_stage_alone_loads_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from spectral_ft import analyze; analyze.main(); "
        f"print('LOADED', [name for name in {HEAVY} if name in sys.modules], 'numpy' in sys.modules)"
    )
    arguments = (SMALL, "tracking.mode=disabled", f"hydra.run.dir={tmp_path / 'run'}")
    done = subprocess.run(
        [sys.executable, "-c", code, "figures=false", *arguments], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "LOADED [] True"
    assert (tmp_path / "run" / "spectrum.parquet").exists()


def test_a_reader_that_has_seen_enough_is_no_fault(tmp_path: Path) -> None:
    command = f"{sys.executable} -m spectral_ft.analyze figures=false hydra.run.dir={tmp_path / 'run'} | head -1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert "medians over 28 matrices" in done.stdout
    assert "Traceback" not in done.stderr and "fault" not in done.stderr
