"""The probe runs where something asks for it; oracles: counted loads, functions in its place, typed nulls."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from spectral_ft.errors import ConfigError
from spectral_ft.experiment import all_parts
from spectral_ft.probe import gradients, inputs, modules
from spectral_ft.probe.gradients import GradientProbe
from spectral_ft.stages.base import load_base
from spectral_ft.stages.probe import WHY_NOT, joined
from spectral_ft.stages.reading import what_plans_read
from spectral_ft.storage import read_probe
from spectral_ft.types import Probe, SpectralReport
from tests import oracles
from tests.test_compose import built

SMALL = ("probe.batches=2", "probe.batch_size=2", "probe.sketch_dim=8", "dataset.limit=16")
VARIANCE = ("rank_policy=explained_variance", "rank_policy.target_modules=[q_proj]", "rank_policy.rank=2")
ASKING = {
    "gradient": (("rank_policy=gradient",), {"norms"}),
    "another policy by gradient": (("rank_policy=snr_top", "rank_policy.column=gradient"), {"norms"}),
    "explained variance": (VARIANCE, {"components"}),
    "eva": (("method=eva",), {"components"}),
    "a control": (("rank_policy=random", "rank_policy.of=explained_variance"), {"components"}),
    "gram": (("method=sgm",), {"sketches"}),
    "cosine": (("method=sgm", "grouping.similarity=cosine"), {"sketches"}),
    "random like gram": (("method=sgm", "grouping.similarity=random"), {"sketches"}),
    "gradient and gram": (("method=sgm", "rank_policy=gradient"), {"norms", "sketches"}),
    "a budget that matches": (("rank_policy=snr_top", "budget=match", "budget.of=lora/gradient"), {"norms"}),
}
"""What asks, and what for."""
REAL = ("gradient", "explained variance", "gram")
"""Those that look at the embedded model; for the others, functions stand in the probe's place."""
NOT_ASKING = {
    "uniform": (),
    "snr_top": ("rank_policy=snr_top",),
    "sgm by spectrum": ("method=sgm", "grouping.similarity=snr"),
    "random like snr": ("method=sgm", "grouping.similarity=random", "grouping.like=snr"),
}


class Read(NamedTuple):
    report: SpectralReport
    probe: Probe
    loads: int
    """How often the base was loaded for the probe."""
    folder: Path


Asked = Callable[[str], Read]


def found_gradients(model: object, batches: object, names: list[str], **asked: Any) -> GradientProbe:
    """In the place of the real one."""
    del model, batches
    sketches = {name: np.eye(4, dtype=np.float32) for name in names} if asked["sketch_dim"] else {}
    return GradientProbe(dict.fromkeys(names, 1.0) if asked["norms"] else {}, sketches, sketches)


def found_directions(model: object, batches: object, names: list[str], **asked: Any) -> dict[str, np.ndarray]:
    """In the place of the real one."""
    del model, batches
    return {name: np.eye(asked["rank"], 192, dtype=np.float32) for name in names}


def read(folder: Path, *options: str, real: bool = False) -> tuple[SpectralReport, Probe | None, int]:
    """What a run in this folder would make its plan from, and how often it loaded the base for it."""
    experiment, loads = built(*SMALL, *options), []
    with pytest.MonkeyPatch.context() as patch:
        load = load_base if real else lambda *given: None
        patch.setattr("spectral_ft.stages.base.load_base", lambda *given: (loads.append(given), load(*given))[1])
        if not real:
            patch.setattr(gradients, "probe_gradients", found_gradients)
            patch.setattr(inputs, "principal_inputs", found_directions)
            patch.setattr(modules, "watchable", lambda model, names: list(names))
        checkpoint, parts = experiment.model.locate(), all_parts(experiment.parts)
        report, probe = what_plans_read(experiment, checkpoint, parts=parts, folder=folder)
    return report, probe, len(loads)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """What was read for a case at the first call."""

    @cache
    def once(case: str) -> Read:
        folder = tmp_path_factory.mktemp("asked")
        report, probe, loads = read(folder, *ASKING[case][0], real=case in REAL)
        assert probe is not None
        return Read(report, probe, loads, folder)

    return once


def columns(report: SpectralReport) -> dict[str, dict[str, float | None]]:
    return {spectrum.matrix.name: spectrum.columns for spectrum in report.matrices}


def alike(one: Probe, other: Probe) -> bool:
    arrays = [(getattr(one, kind), getattr(other, kind)) for kind in ("sketches", "half_sketches", "components")]
    return (one.ids, one.columns) == (other.ids, other.columns) and all(
        here.keys() == there.keys() and all(np.array_equal(here[name], there[name]) for name in here)
        for here, there in arrays
    )


@pytest.mark.parametrize("case", NOT_ASKING)
def test_without_a_question_nothing_is_loaded_and_nothing_left(case: str, tmp_path: Path) -> None:
    report, probe, loads = read(tmp_path, *NOT_ASKING[case])
    assert probe is None and loads == 0
    assert not (tmp_path / "probe.safetensors").exists()
    assert not {"gradient", "input_rank"} & {column for own in columns(report).values() for column in own}


@pytest.mark.parametrize("case", ASKING)
def test_no_more_is_looked_at_than_was_asked_for(case: str, asked: Asked) -> None:
    _, probe, loads, _ = asked(case)
    present = {"norms"} if any("gradient" in own for own in probe.columns.values()) else set()
    present |= {"sketches"} if probe.sketches and probe.half_sketches else set()
    present |= {"components"} if probe.components else set()
    assert loads == 1 and present == ASKING[case][1]


@pytest.mark.parametrize("case", ["gradient", "explained variance", "gram", "a control", "gradient and gram"])
def test_a_second_call_reads_what_the_first_left(case: str, asked: Asked) -> None:
    report, probe, _, folder = asked(case)
    before = (folder / "probe.safetensors").read_bytes()
    again, same, loads = read(folder, *ASKING[case][0])
    assert loads == 0 and (folder / "probe.safetensors").read_bytes() == before
    assert columns(again) == columns(report)
    assert same is not None and alike(same, probe) and alike(read_probe(folder / "probe.safetensors"), probe)


def test_gradients_are_a_column_of_every_matrix(asked: Asked) -> None:
    report, probe, *_ = asked("gradient")
    values = {name: own["gradient"] for name, own in columns(report).items()}
    assert len(set(values.values())) == 28 and all(value is not None and value > 0 for value in values.values())
    assert values == {name: own["gradient"] for name, own in probe.columns.items()}
    assert not any(spectrum.reasons for spectrum in report.matrices)


def test_what_was_not_looked_at_is_null_with_a_reason(asked: Asked) -> None:
    report, probe, *_ = asked("explained variance")
    assert {name.rpartition(".")[2] for name in probe.components} == {"q_proj"} and len(probe.components) == 4
    for spectrum in report.matrices:
        rank, why = spectrum.columns["input_rank"], spectrum.reasons.get("input_rank")
        if spectrum.matrix.type == "q_proj":
            assert rank == len(probe.components[spectrum.matrix.name]) and why is None
        else:
            assert rank is None and why == WHY_NOT == "the probe did not look at this matrix"


def test_the_policys_own_options_reach_the_probe(asked: Asked) -> None:
    probe = asked("a control").probe
    assert len(probe.components) == 28 and {len(rows) for rows in probe.components.values()} == {8}
    assert sum(map(len, asked("explained variance").probe.components.values())) == 2 * 4


def test_the_probes_columns_stand_beside_the_spectral_ones(asked: Asked) -> None:
    assert all({"snr", "gradient"} <= own.keys() for own in columns(asked("a budget that matches").report).values())


def test_the_examples_are_drawn_by_the_probes_own_seed(asked: Asked, tmp_path: Path) -> None:
    ids = asked("gradient").probe.ids
    assert len(set(ids)) == 4 and set(ids) <= set(range(16))
    for number, (option, same) in enumerate({"seed=1": True, "probe.seed=1": False}.items()):
        probe = read(tmp_path / str(number), "rank_policy=gradient", option)[1]
        assert probe is not None and (probe.ids == ids) is same


def test_the_probe_is_of_the_base_as_it_will_be_trained(asked: Asked, tmp_path: Path) -> None:
    whole = asked("gradient").probe.columns
    _, probe, _ = read(tmp_path, "rank_policy=gradient", "quantization=nf4", real=True)
    assert probe is not None and probe.columns.keys() == whole.keys()
    ratios = [probe.columns[name]["gradient"] / whole[name]["gradient"] for name in whole]
    assert 1.0 not in ratios and 0.2 < min(ratios) <= max(ratios) < 5


def test_joining_changes_nothing_else() -> None:
    report = oracles.report({"0.q_proj": 1.0, "1.q_proj": None})
    first, second = (spectrum.matrix.name for spectrum in report.matrices)
    assert joined(report, None) is report
    after = joined(report, Probe(ids=(1,), columns={first: {"gradient": 2.0}}))
    assert columns(after) == {first: {"snr": 1.0, "gradient": 2.0}, second: {"snr": None, "gradient": None}}
    assert [spectrum.reasons for spectrum in after.matrices] == [{}, {"snr": "made null here", "gradient": WHY_NOT}]
    sketched = joined(report, Probe(ids=(1,), columns={first: {}, second: {}}, sketches={first: np.eye(2)}))
    assert columns(sketched) == columns(report)


def test_too_few_examples(tmp_path: Path) -> None:
    message = r"^probe\.batches=8 of probe\.batch_size=2 are 16 examples, and dataset=wordmath has 15: lower one of"
    with pytest.raises(ConfigError, match=message):
        read(tmp_path, "rank_policy=gradient", "probe.batches=8", "dataset.limit=15")
    assert not (tmp_path / "probe.safetensors").exists()
    _, probe, _ = read(tmp_path, "rank_policy=gradient", "probe.batches=8")
    assert probe is not None and sorted(probe.ids) == list(range(16))


@pytest.mark.parametrize("policy", ["snr_top", "gradient"])
def test_the_input_rank_belongs_to_its_policy(policy: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"column input_rank is made for rank_policy=explained_variance.*another col"):
        read(tmp_path, f"rank_policy={policy}", "rank_policy.column=input_rank")


def test_one_probe_serves_one_kind_of_explained_variance(tmp_path: Path) -> None:
    other, same = (
        (*VARIANCE, "budget=match", f"budget.of='lora/{' '.join(of)}'")
        for of in (
            ("explained_variance", "rank_policy.rank=3"),
            ("explained_variance", *VARIANCE[1:]),
        )
    )
    with pytest.raises(ConfigError, match=r"explained_variance is asked for twice with different options.*same ones"):
        read(tmp_path, *other)
    assert read(tmp_path, *same)[1] is not None
