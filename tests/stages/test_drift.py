"""The drift of every method; oracles: PEFT's merged weights beside the base's files, its own intruders, the packing."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from peft import PeftModel
from peft.tuners.lora.intruders import reduce_intruder_dimension
from safetensors.torch import load_file, save_file
from scipy.linalg import subspace_angles
from transformers import AutoModelForCausalLM

from spectral_ft import run
from spectral_ft.adapters.merging import merge
from spectral_ft.adapters.opening import open_adapter
from spectral_ft.configuration import CONF
from spectral_ft.errors import CheckpointError
from spectral_ft.experiment import Experiment
from spectral_ft.models.packed import Packing, rounded
from spectral_ft.spectral.drift_settings import NoDrift
from spectral_ft.stages import drift as stage
from spectral_ft.stages.base import load_base
from spectral_ft.stages.drift import drift, measured
from tests.conftest import EMBEDDED, call_entry
from tests.test_compose import built
from tests.test_export import made

METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))
UNMOVED = {"none", "prefix", "adapter_s", "adapter_p", "ln_tuning"}
FILES = {"drift.parquet", "drift.csv"}
BASE = {name: tensor.double().numpy() for name, tensor in load_file(EMBEDDED / "model.safetensors").items()}


@pytest.fixture(autouse=True)
def plain_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a CPU has bf16 units, bitsandbytes would use them and rearrange the codes, which PEFT's DoRA misreads."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., tuple[Experiment, Path]]:
    """A run whose training left random changes."""

    def of(*options: str) -> tuple[Experiment, Path]:
        return built(*options), made(tmp_path / "run", *options)

    return of


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Experiment, Path]:
    """With updates as large as their matrices."""
    options = ("method=lora", "rank_policy.target_modules=[q_proj,down_proj]")
    folder = made(tmp_path_factory.mktemp("lora") / "run", *options)
    file = folder / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor * (50 if "lora_B" in name else 1) for name, tensor in load_file(file).items()}, file)
    return built(*options), folder


@pytest.mark.parametrize("method", METHODS)
def test_each_method_moved_what_its_merged_weights_say(
    method: str, make: Callable[..., tuple[Experiment, Path]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="spectral_ft")
    experiment, folder = make(f"method={method}", "figures=false")
    checkpoint = experiment.model.locate()
    found = drift(experiment, checkpoint, folder)
    left = {path.name for path in folder.iterdir()}
    if method in UNMOVED:
        assert found is None and not left & FILES
        assert f"method={method} leaves every weight matrix as it is" in caplog.text
        return
    assert found is not None and left >= FILES and not (folder / "figures").exists()
    merged = merge(open_adapter(load_base(experiment, checkpoint), folder / "adapter")).state_dict()
    after = {matrix.name: merged[f"{matrix.name}.weight"].double().numpy() for matrix in checkpoint.matrices}
    before = {name: BASE[f"{name}.weight"] for name in after}
    changed = [name for name in after if not np.array_equal(after[name], before[name])]
    assert list(found["name"]) == changed
    assert f"drift of {len(changed)} matrices" in caplog.text
    for row in found.iloc[:: max(1, len(found) // 3)].to_dict("records"):
        old, new = before[row["name"]], after[row["name"]]
        assert (row["rows"], row["cols"]) == old.shape
        update = np.linalg.svd(new - old)[1]
        (u, s, _), (u2, s2, _) = np.linalg.svd(old, full_matrices=False), np.linalg.svd(new, full_matrices=False)
        assert row["spectral_norm_before"] == pytest.approx(s[0], rel=1e-6)
        assert row["spectral_norm_after"] == pytest.approx(s2[0], rel=1e-5)
        assert row["relative_spectral"] == pytest.approx(update[0] / s[0], rel=1e-4)
        assert row["relative_frobenius"] == pytest.approx(np.linalg.norm(new - old) / np.linalg.norm(old), rel=1e-4)
        cosines = np.abs(u.T @ u2[:, :10])
        assert row["intruders_left"] == (cosines.max(axis=0) < 0.5).sum()
        assert row["angle_left"] == pytest.approx(subspace_angles(u[:, :10], u2[:, :10]).max(), rel=1e-3)


def test_intruders_are_those_that_peft_finds(lora: tuple[Experiment, Path]) -> None:
    experiment, folder = lora
    settings = replace(experiment.drift, top=12, threshold=0.5)
    found = measured(replace(experiment, drift=settings), experiment.model.locate(), folder / "adapter")
    assert found is not None
    said: list[str] = []
    model = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(EMBEDDED, dtype="float32"), folder / "adapter"
    )
    reduce_intruder_dimension(model, top_k=12, threshold_epsilon=0.5, logging_sink=said.append)
    lines = [re.fullmatch(r"base_model\.model\.(\S+): (?:No intruders|Intruders: (\d+))", line) for line in said]
    counts = {line[1]: int(line[2] or 0) for line in lines if line}
    assert dict(zip(found["name"], found["intruders_left"], strict=True)) == counts
    assert sum(counts.values()) > 0 and len(counts) == 8


@pytest.mark.parametrize(
    ("quantization", "method", "packing"),
    [("nf4", "lora", "nf4-double"), ("nf4", "dora", "nf4-double"), ("int8", "lora", "int8")],
)
def test_a_packed_base_is_what_it_stands_for(
    quantization: str, method: str, packing: Packing, make: Callable[..., tuple[Experiment, Path]]
) -> None:
    options = (f"method={method}", f"quantization={quantization}", "rank_policy.target_modules=[q_proj]")
    experiment, folder = make(*options)
    found = measured(experiment, experiment.model.locate(), folder / "adapter")
    assert found is not None and len(found) == 4
    adapter = load_file(folder / "adapter" / "adapter_model.safetensors")
    scaling = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    for row in found.to_dict("records"):
        name = row["name"]
        weights = rounded(BASE[f"{name}.weight"].astype(np.float32), packing).astype(np.float64)
        a, b = (adapter[f"base_model.model.{name}.lora_{factor}.weight"].double().numpy() for factor in "AB")
        after = weights + scaling["lora_alpha"] / scaling["r"] * b @ a
        if method == "dora":
            lengths = adapter[f"base_model.model.{name}.lora_magnitude_vector"].double().numpy()
            after *= (lengths / np.linalg.norm(after, axis=1))[:, None]
        assert row["frobenius_norm_before"] == pytest.approx(np.linalg.norm(weights), rel=1e-6)
        assert row["frobenius_norm_before"] != pytest.approx(np.linalg.norm(BASE[f"{name}.weight"]), rel=1e-6)
        assert row["frobenius_norm_update"] == pytest.approx(np.linalg.norm(after - weights), rel=1e-5)


def test_it_is_measured_once_and_drawn_where_the_picture_is_missing(
    lora: tuple[Experiment, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment, folder = lora[0], Path(shutil.copytree(lora[1], tmp_path / "run"))
    first = drift(experiment, experiment.model.locate(), folder)
    assert first is not None and (folder / "figures" / "drift.png").exists()
    pd.testing.assert_frame_equal(pd.read_csv(folder / "drift.csv", keep_default_na=False), first, check_dtype=False)
    (folder / "figures" / "drift.png").unlink()
    monkeypatch.setattr(stage, "drift_columns", lambda *given, **how: pytest.fail("measured again"))
    again = drift(experiment, experiment.model.locate(), folder)
    pd.testing.assert_frame_equal(again, first)
    assert (folder / "figures" / "drift.png").exists()
    (folder / "drift.parquet").write_bytes(b"PAR1 cut")
    monkeypatch.undo()
    made = drift(experiment, experiment.model.locate(), folder)
    pd.testing.assert_frame_equal(made, first)


def test_it_is_not_measured_where_nobody_asks(lora: tuple[Experiment, Path]) -> None:
    experiment, folder = lora
    assert isinstance(built("model=llama2-7b").drift, NoDrift)
    assert drift(replace(experiment, drift=NoDrift()), experiment.model.locate(), folder) is None


def test_a_matrix_without_finite_products_is_named(
    lora: tuple[Experiment, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from spectral_ft.adapters import trained_weight

    experiment, folder = lora
    monkeypatch.setattr(trained_weight, "trained_weight", lambda model, name, weight: weight * np.inf)
    with pytest.raises(CheckpointError, match=r"layers\.0\.\S+ cannot be compared .* NaN or infinite.*learning_rate"):
        measured(experiment, experiment.model.locate(), folder / "adapter")


def test_options_do_not_change_who_a_run_is() -> None:
    ids = {built(*options).run_id for options in ((), ("drift=none",), ("drift.top=3",))}
    assert len(ids) == 1


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("drift.top=0", r"drift\.top=0"),
        ("drift.threshold=1.5", r"drift\.threshold=1\.5"),
        (
            "drift.columns=[snrr]",
            r"drift\.columns names snrr, which is no metric .* there is snr_moment, snr,",
        ),
    ],
)
def test_options_that_cannot_be_are_named(option: str, said: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert call_entry(run.main, option) == 1
    assert re.search(said, capfd.readouterr().err)
