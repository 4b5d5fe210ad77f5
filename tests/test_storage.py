"""Oracle: what was written comes back; what was interrupted or damaged leaves the old file or a sentence."""

import json
import math

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from safetensors.numpy import load_file, save_file

from spectral_ft.errors import RunError
from spectral_ft.storage import (
    read_json,
    read_probe,
    read_report,
    replacing,
    write_json,
    write_jsonl,
    write_probe,
    write_report,
    write_text,
)
from spectral_ft.types import (
    AllocationPlan,
    BenchmarkScore,
    MatrixAllocation,
    MatrixShape,
    MatrixSpectrum,
    Probe,
    Round,
    SpectralReport,
    TrainOutcome,
)
from tests.oracles import law, matrix, report, score

allocations = st.builds(
    MatrixAllocation,
    name=st.text(min_size=1),
    rank=st.integers(0, 512),
    lora_alpha=st.floats(0, 1e6),
    lr_multiplier=st.floats(0, 100),
    group=st.none() | st.text(),
    shares=st.sampled_from([None, "AB", "A", "B"]),
)
plans = st.builds(
    AllocationPlan,
    allocations=st.lists(allocations, max_size=4).map(tuple),
    trainable_parameters=st.integers(0, 10**12),
    adapter_parameters=st.integers(0, 10**12),
    base_parameters=st.integers(1, 10**12),
)
columns = st.fixed_dictionaries({
    "snr": st.none() | st.floats(allow_nan=False),
    "num_spikes": st.none() | st.integers(0, 99).map(float),
})
rounds = st.builds(
    Round,
    step=st.integers(0, 10**6),
    applied=st.booleans(),
    changed=st.lists(st.text(), max_size=2).map(tuple),
    plan=plans,
    columns=st.dictionaries(
        st.text(),
        st.dictionaries(st.text(), st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=2),
        max_size=2,
    ),
)
sketches = st.dictionaries(
    st.text(),
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 99)).map(
        lambda drawn: np.random.default_rng(drawn[2]).normal(size=drawn[:2]).astype(np.float32)
    ),
    max_size=2,
)
probes = st.builds(
    Probe,
    ids=st.lists(st.integers(0, 10**6), max_size=4).map(tuple),
    columns=st.dictionaries(
        st.text(), st.dictionaries(st.text(), st.floats(allow_nan=False, allow_infinity=False), max_size=2), max_size=2
    ),
    sketches=sketches,
    half_sketches=sketches,
    components=sketches,
)


@st.composite
def spectra(draw, name):
    shape = draw(st.none() | st.tuples(st.integers(1, 5), st.integers(1, 5)))
    count = min(shape) if shape else 0
    values = draw(st.none() | st.lists(st.floats(0, 1e9), min_size=count, max_size=count)) if shape else None
    found = draw(columns)
    return MatrixSpectrum(
        matrix=matrix(name, shape),
        singular_values=None if values is None else np.sort(values)[::-1],
        columns=found,
        reasons={key: draw(st.text()) for key, value in found.items() if value is None},
        fault=draw(st.none() | st.text(min_size=1)),
    )


reports = st.builds(
    SpectralReport,
    model=st.text(),
    fingerprint=st.text(),
    settings=st.dictionaries(st.text(), st.none() | st.integers(-9, 9) | st.text(), max_size=3),
    matrices=st.tuples(spectra("0.q_proj"), spectra("0.up_proj"), spectra("12.q_proj")),
)


def json_round_trip(value):
    adapter = TypeAdapter(type(value))
    return adapter.validate_json(adapter.dump_json(value))


@law
@given(plans)
def test_plans_survive_json(plan):
    assert json_round_trip(plan) == plan


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("storage")


@law
@given(plans)
def test_plans_survive_their_file(folder, plan):
    write_json(folder / "plan.json", plan)
    assert read_json(folder / "plan.json", AllocationPlan) == plan


@law
@given(st.lists(rounds, max_size=2).map(tuple))
def test_the_rounds_of_a_training_survive_their_file(folder, drawn):
    counts = {"steps": 9, "tokens": 9, "peak_memory_bytes": 9, "trainable_parameters": 9, "examples": 9}
    counts |= {"peak_device_bytes": None}
    numbers = {
        "samples_per_second": 1.5,
        "first_loss": 0.5,
        "final_loss": 0.25,
        "seconds": 1.5,
        "tokens_per_second": 6.0,
    }
    written = TrainOutcome(adapter=None, **counts, **numbers, truncated_examples=0, dropped_examples=0, rounds=drawn)
    write_json(folder / "train.json", written)
    assert read_json(folder / "train.json", TrainOutcome) == written


@law
@given(probes)
def test_probes_survive_their_file(folder, written):
    write_probe(folder / "probe.safetensors", written)
    found = read_probe(folder / "probe.safetensors")
    assert (found.ids, found.columns) == (written.ids, written.columns)
    for kind in ("sketches", "half_sketches", "components"):
        one, other = getattr(found, kind), getattr(written, kind)
        assert one.keys() == other.keys()
        for name, array in other.items():
            assert (one[name].dtype, one[name].shape) == (np.float32, array.shape)
            assert (one[name] == array).all()


@law
@given(reports)
def test_reports_survive_their_file(folder, written):
    write_report(folder / "report.parquet", written)
    found = read_report(folder / "report.parquet")
    assert (found.model, found.fingerprint, found.settings) == (written.model, written.fingerprint, written.settings)
    for one, other in zip(found.matrices, written.matrices, strict=True):
        assert (one.matrix, one.columns, one.reasons) == (other.matrix, other.columns, other.reasons)
        assert one.fault == other.fault
        np.testing.assert_array_equal(one.singular_values, other.singular_values)


def test_a_report_made_from_shapes_alone_has_no_columns(tmp_path):
    bare = MatrixSpectrum(matrix=matrix("0.q_proj"), singular_values=None, columns={})
    write_report(tmp_path / "r", SpectralReport(model="m", fingerprint="", settings={}, matrices=(bare,)))
    assert read_report(tmp_path / "r").matrices[0] == bare


UNKNOWN_SHAPE = MatrixShape(name="m.0.q", type="q", side="unknown", block=0, shape=None)


@pytest.mark.parametrize("companion", [None, (3, 5)])
def test_a_matrix_of_unknown_shape_survives_its_file(tmp_path, companion):
    spectra = (
        MatrixSpectrum(UNKNOWN_SHAPE, None, {"snr": math.inf}),
        MatrixSpectrum(matrix("1.q", companion), None, {"snr": 2.0}),
    )
    write_report(tmp_path / "r", SpectralReport(model="m", fingerprint="", settings={}, matrices=spectra))
    found = read_report(tmp_path / "r").matrices
    assert found == spectra
    assert (found[0].matrix.shape, found[0].columns["snr"], found[1].matrix.shape) == (None, math.inf, companion)


def test_a_fault_survives_its_file_and_its_columns_stay_null(tmp_path):
    spectra = (
        MatrixSpectrum(matrix("0.q", (1, 2)), np.array([3.0]), {"snr": 2.0, "snr_null": 1.0}),
        MatrixSpectrum(matrix("1.q", (1, 2)), None, {"snr": None}, {"snr": "no spectrum"}, fault="1.q is damaged"),
    )
    write_report(tmp_path / "r", SpectralReport(model="m", fingerprint="f", settings={}, matrices=spectra))
    whole, broken = read_report(tmp_path / "r").matrices
    assert (whole.fault, whole.columns) == (None, {"snr": 2.0, "snr_null": 1.0})
    assert (broken.fault, broken.singular_values) == ("1.q is damaged", None)
    assert (broken.columns, broken.reasons) == ({"snr": None, "snr_null": None}, {"snr": "no spectrum"})


def test_a_report_is_a_table_for_pandas(tmp_path):
    spectrum = MatrixSpectrum(matrix=matrix("0.q_proj", (1, 2)), singular_values=np.array([3.0]), columns={"snr": 0.5})
    write_report(tmp_path / "r", SpectralReport(model="m", fingerprint="", settings={}, matrices=(spectrum,)))
    row = pd.read_parquet(tmp_path / "r").iloc[0]
    assert (row["name"], row["rows"], row["cols"], row["snr"]) == ("model.layers.0.q_proj", 1, 2, 0.5)


def test_a_truncated_report_is_named(tmp_path):
    write_report(tmp_path / "r", report({"0.q_proj": 1.0}))
    (tmp_path / "r").write_bytes((tmp_path / "r").read_bytes()[:-5])
    with pytest.raises(RunError, match="r is damaged or no spectral report"):
        read_report(tmp_path / "r")


def test_any_other_parquet_file_is_no_report(tmp_path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "r")
    with pytest.raises(RunError, match="r is damaged or no spectral report"):
        read_report(tmp_path / "r")


PROBE = Probe(ids=(2, 0), columns={"a/b": {"gradient": 0.5}}, components={"a/b": np.ones((2, 3), np.float32)})


def test_an_array_of_a_probe_may_lie_in_memory_as_it_likes(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    written = Probe(ids=(), columns={}, sketches={"w": array.T, "v": array[:, ::2]})
    write_probe(tmp_path / "p", written)
    found = read_probe(tmp_path / "p").sketches
    assert found["w"].tolist() == array.T.tolist() and found["v"].tolist() == array[:, ::2].tolist()


def test_a_probe_is_a_file_that_other_tools_open(tmp_path):
    write_probe(tmp_path / "p", PROBE)
    assert load_file(tmp_path / "p").keys() == {"components/a/b"}
    found = read_probe(tmp_path / "p")
    assert found.components["a/b"].tolist() == PROBE.components["a/b"].tolist() and found.columns == PROBE.columns


@pytest.mark.parametrize("keep", [0, 4, 60, -5])
def test_a_truncated_probe_is_named(tmp_path, keep):
    write_probe(tmp_path / "p", PROBE)
    (tmp_path / "p").write_bytes((tmp_path / "p").read_bytes()[:keep])
    with pytest.raises(RunError, match=r"p is damaged or no probe"):
        read_probe(tmp_path / "p")


@pytest.mark.parametrize(
    ("arrays", "head"),
    [
        ({"w": np.ones(2)}, None),
        ({"sketches/w": np.ones(2)}, {"ids": "[]"}),
        ({"weights/w": np.ones(2)}, {"ids": "[]", "columns": "{}"}),
        ({}, {"ids": "[1,", "columns": "{}"}),
        ({}, {"ids": "[1]", "columns": "[]"}),
    ],
)
def test_any_other_file_of_tensors_is_no_probe(tmp_path, arrays, head):
    save_file(arrays, tmp_path / "p", metadata=head)
    with pytest.raises(RunError, match="p is damaged or no probe"):
        read_probe(tmp_path / "p")


def test_a_probe_that_is_not_there_is_named(tmp_path):
    with pytest.raises(RunError, match=r"absent is damaged or no probe: "):
        read_probe(tmp_path / "absent")


@pytest.mark.parametrize("text", ["", '{"name": "w", "rank"', "[]", '{"name": "w", "lora_alpha": 1}'])
def test_a_damaged_file_says_how_to_get_it_again(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(
        RunError, match=r"a\.json is damaged or was edited: .*Remove it; the same command makes it again"
    ):
        read_json(tmp_path / "a.json", MatrixAllocation)


def test_the_wrong_entry_of_a_file_is_named(tmp_path):
    (tmp_path / "a.json").write_text('{"name": "w", "rank": -1, "lora_alpha": 1}')
    with pytest.raises(RunError, match="edited: rank: Input should be greater than or equal to 0"):
        read_json(tmp_path / "a.json", MatrixAllocation)


def test_a_number_without_a_json_form_is_refused(tmp_path):
    with pytest.raises(RunError, match="NaN or infinite"):
        write_json(tmp_path / "s.json", score("t", math.inf))
    assert not list(tmp_path.iterdir())


def test_files_are_utf_8(tmp_path):
    write_json(tmp_path / "a.json", {"text": "5 € für Żółć"})
    assert "5 € für Żółć" in (tmp_path / "a.json").read_bytes().decode("utf-8")


def test_json_lines_hold_one_row_each(tmp_path):
    rows = [{"a": 1}, {"a": "two\nlines"}, {}]
    write_jsonl(tmp_path / "a.jsonl", rows)
    lines = (tmp_path / "a.jsonl").read_text().split("\n")
    assert [json.loads(line) for line in lines[:-1]] == rows
    assert not lines[-1]


def test_scores_keep_their_order(tmp_path):
    scores = (score("b", 0.5), score("a", 0.25))
    write_json(tmp_path / "s.json", scores)
    assert read_json(tmp_path / "s.json", tuple[BenchmarkScore, ...]) == scores


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    write_text(tmp_path / "a", "old")
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a") as part:
        part.write_text("ne")
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    for content in ("old", "new"):
        with replacing(tmp_path / "f") as part:
            part.mkdir()
            (part / content).touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["f", "new"]


def test_an_interrupted_folder_leaves_the_old_one(tmp_path):
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "old").touch()
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "f") as part:
        part.mkdir()
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.rglob("*")] == ["f", "old"]


def test_missing_parents_are_made(tmp_path):
    write_text(tmp_path / "a" / "b" / "c", "text")
    assert (tmp_path / "a" / "b" / "c").read_text() == "text"
