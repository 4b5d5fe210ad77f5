"""What plans are made from; oracles: what lies in the folder, shapes with and without weights."""

from pathlib import Path

import pytest

from spectral_ft.errors import CheckpointError, SpectralFTError
from spectral_ft.experiment import all_parts
from spectral_ft.stages import reading
from spectral_ft.stages.reading import what_plans_read
from spectral_ft.types import Probe, SpectralReport
from tests.conftest import EMBEDDED
from tests.test_compose import built


@pytest.fixture
def config_alone(tmp_path: Path) -> Path:
    """The embedded model's config.json without its weights."""
    folder = tmp_path / "shapes"
    folder.mkdir()
    (folder / "config.json").write_bytes((EMBEDDED / "config.json").read_bytes())
    return folder


def read(folder: Path, *options: str) -> tuple[SpectralReport, Probe | None]:
    experiment = built(*options)
    checkpoint = experiment.model.locate()
    return what_plans_read(experiment, checkpoint, parts=all_parts(experiment.parts), folder=folder)


@pytest.mark.parametrize("policy", ["uniform", "depth"])
def test_shapes_are_enough_where_no_column_is_read(policy: str, tmp_path: Path) -> None:
    report, probe = read(tmp_path, f"rank_policy={policy}")
    assert probe is None and len(report.matrices) == 28
    assert not any(spectrum.columns or spectrum.singular_values is not None for spectrum in report.matrices)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "column"),
    [
        (("rank_policy=snr_top",), "snr"),
        (("rank_policy=snr_top", "rank_policy.column=stable_rank"), "stable_rank"),
        (("rank_policy=random", "rank_policy.of=ht_sr"), "alpha_hill"),
        (("grouping=sgm", "grouping.similarity=snr"), "snr"),
        (("budget=match", "budget.of=lora/snr_tiers"), "snr"),
        (("budget=match", "budget.of=sgm grouping.similarity=snr"), "snr"),
    ],
)
def test_spectra_are_there_where_anything_reads_one(options: tuple[str, ...], column: str, tmp_path: Path) -> None:
    quoted = [f"budget.of='{option.removeprefix('budget.of=')}'" if " " in option else option for option in options]
    report, _ = read(tmp_path, *quoted)
    assert all(spectrum.columns[column] is not None for spectrum in report.matrices)
    assert (tmp_path / "spectrum.parquet").is_file()


def test_spectra_that_lie_there_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = read(tmp_path, "rank_policy=snr_top")
    from spectral_ft.stages import spectrum

    monkeypatch.setattr(spectrum, "analyse", None)
    again, _ = read(tmp_path, "rank_policy=snr_top")
    assert again.frame().equals(first.frame())


def test_config_json_alone_gives_the_same_shapes(config_alone: Path, tmp_path: Path) -> None:
    without, _ = read(tmp_path, f"model.path={config_alone}")
    with_weights, _ = read(tmp_path)
    assert {s.matrix for s in without.matrices} == {s.matrix for s in with_weights.matrices}
    assert [s.matrix.name for s in without.matrices] == [s.matrix.name for s in with_weights.matrices]
    assert without.fingerprint == ""


@pytest.mark.parametrize("weights", [True, False])
def test_what_the_spectrum_leaves_out_no_policy_sees(weights: bool, config_alone: Path, tmp_path: Path) -> None:
    options = ("spectrum.include=q_proj", "spectrum.exclude='layers\\.3'")
    report, _ = read(tmp_path, *options, *(() if weights else (f"model.path={config_alone}",)))
    assert [s.matrix.name for s in report.matrices] == [f"model.layers.{n}.self_attn.q_proj" for n in range(3)]


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        (("rank_policy=snr_top",), "snr"),
        (("method=lora_ar",), "alpha_hill, num_spikes"),
        (("rank_policy=gradient",), "gradient"),
        (("rank_policy=explained_variance",), "input_rank"),
        (("grouping=sgm",), "snr"),
        (("budget=match", "budget.of=spectraqlora"), "snr"),
    ],
)
def test_a_folder_without_weights_has_no_columns(
    options: tuple[str, ...], needs: str, config_alone: Path, tmp_path: Path
) -> None:
    message = (
        f"^{config_alone} holds config.json and no weights, and the plan needs {needs} of them: give the whole "
        r"checkpoint, or a policy that needs shapes only \(uniform, depth\)\.$"
    )
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, f"model.path={config_alone}", *options)


def test_a_config_of_no_known_model_is_one_sentence(config_alone: Path, tmp_path: Path) -> None:
    (config_alone / "config.json").write_text('{"model_type": "no_such_model"}')
    with pytest.raises(SpectralFTError, match="no_such_model"):
        read(tmp_path, f"model.path={config_alone}")


def test_weights_are_not_opened_for_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "sound_report", None)
    assert read(tmp_path)[0].matrices
