"""Oracle: scans written here in both published forms, and patterns tried on every parameter name."""

import json
import math
import re

import pytest
import yaml

from spectral_ft.errors import CheckpointError
from spectral_ft.spectral.scan import read_scan, write_scan, write_unfrozen
from spectral_ft.types import MatrixShape, MatrixSpectrum, SpectralReport
from tests.oracles import report

OUTSIDE = {"lm_head": 4.0, "model.embed_tokens": 5.0, "model.norm": 6.0}
INSIDE = {
    "model.layers.0.self_attn.q_proj": 1.5,
    "model.layers.2.mlp.down_proj": math.inf,
    "model.layers.10.self_attn.q_proj": math.nan,
    "model.layers.10.mlp.down_proj": -0.25,
}
NORMS = {"model.layers.0.input_layernorm": 7.0, "model.layers.2.self_attn.q_norm": 8.0, "transformer.h.0.ln_1": 9.0}
ALL = OUTSIDE | NORMS | INSIDE


def type_of(name):
    return re.sub(r"^.*\.\d+\.", "", name)


def flat():
    """`{MATRIX: {"snr": NUMBER, "type": TYPE}}`."""
    return {name: {"snr": value, "type": type_of(name)} for name, value in ALL.items()}


def nested():
    """`{TYPE: {MATRIX: NUMBER}}`."""
    found = {}
    for name, value in ALL.items():
        found.setdefault(type_of(name), {})[name] = value
    return found


def written(folder, content, name="snr_results_org-model.json"):
    path = folder / name
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("form", [flat, nested])
def test_both_forms_give_the_matrices_of_the_blocks(form, tmp_path):
    found = read_scan(written(tmp_path, form()))
    assert [(s.matrix.block, s.matrix.name, s.matrix.type) for s in found.matrices] == [
        (0, "model.layers.0.self_attn.q_proj", "q_proj"),
        (2, "model.layers.2.mlp.down_proj", "down_proj"),
        (10, "model.layers.10.mlp.down_proj", "down_proj"),
        (10, "model.layers.10.self_attn.q_proj", "q_proj"),
    ]
    assert [s.columns["snr"] for s in found.matrices] == [1.5, math.inf, -0.25, None]
    assert [s.reasons for s in found.matrices] == [{}, {}, {}, {"snr": "the scan has no number"}]
    for s in found.matrices:
        assert (s.matrix.shape, s.singular_values, s.matrix.side) == (None, None, "unknown")


def test_a_scan_is_called_as_its_file(tmp_path):
    path = written(tmp_path, flat())
    assert "Infinity" in path.read_text() and "NaN" in path.read_text()
    found = read_scan(path)
    assert (found.model, found.fingerprint, found.settings) == ("org-model", "", {"scan": path.name})


def test_whole_numbers_and_numbers_in_quotes_are_numbers(tmp_path):
    found = read_scan(written(tmp_path, {"t": {"model.layers.0.a": 3, "model.layers.1.a": "2.5"}}))
    assert [s.columns["snr"] for s in found.matrices] == [3.0, 2.5]


@pytest.mark.parametrize(
    "content",
    [
        [],
        [1],
        7,
        None,
        "text",
        {"a": 1},
        {"a": [1]},
        {"model.layers.0.a": {"snr": None, "type": "a"}},
        {"t": {"m": {}}},
    ],
)
def test_what_is_no_scan_is_refused(tmp_path, content):
    with pytest.raises(CheckpointError, match=r"scan\.json is no scan of Spectrum: "):
        read_scan(written(tmp_path, content, "scan.json"))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b'{"t": {"model.layers.0.a": one}}'])
def test_what_is_no_json_is_refused(tmp_path, content):
    (tmp_path / "scan.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"scan\.json is no scan of Spectrum: "):
        read_scan(tmp_path / "scan.json")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"gone\.json is no scan of Spectrum: FileNotFoundError"):
        read_scan(tmp_path / "gone.json")


@pytest.mark.parametrize("content", [{}, {"t": {}}, {"t": OUTSIDE | NORMS}])
def test_a_scan_without_a_matrix_of_a_block_is_refused(tmp_path, content):
    with pytest.raises(CheckpointError, match="has no matrix of a block among its"):
        read_scan(written(tmp_path, content))


def test_what_is_written_is_read_again(tmp_path):
    before = report({"0.q_proj": 1 / 3, "1.q_proj": None, "11.up_proj": math.inf, "2.up_proj": 1e-300})
    write_scan(tmp_path / "snr_results_m.json", before)
    after = read_scan(tmp_path / "snr_results_m.json")
    assert {s.matrix.name: s.columns for s in after.matrices} == {s.matrix.name: s.columns for s in before.matrices}


def test_a_written_scan_has_spectrums_present_form(tmp_path):
    write_scan(tmp_path / "s.json", report({"0.mlp.up_proj": 0.5, "1.mlp.up_proj": None}))
    content = json.loads((tmp_path / "s.json").read_text())
    assert content["model.layers.0.mlp.up_proj"] == {"snr": 0.5, "type": "mlp.up_proj"}
    assert math.isnan(content["model.layers.1.mlp.up_proj"]["snr"])


def conv1d_scan():
    return {f"transformer.h.0.{leaf}": {"snr": 1.0, "type": leaf} for leaf in ("attn.c_proj", "mlp.c_proj")}


def test_the_projections_of_gpt2_have_types_of_their_own(tmp_path):
    found = read_scan(written(tmp_path, conv1d_scan()))
    assert len({s.matrix.type for s in found.matrices}) == 2


PARAMETERS = [
    f"model.layers.{block}.{leaf}.weight"
    for block in (0, 1, 10, 11)
    for leaf in ("self_attn.q_proj", "mlp.up_proj", "mlp.experts.1.up_proj", "input_layernorm")
] + ["model.embed_tokens.weight", "lm_head.weight", "model.norm.weight", "modelXlayers.1.mlp.up_proj.weight"]
MATRICES = [name for name in PARAMETERS if name.startswith("model.layers") and "norm" not in name]


def whole_model():
    def shape(name):
        module = name.removesuffix(".weight")
        return MatrixShape(
            name=module, type=module.rpartition(".")[2], side="reads", block=int(name.split(".")[2]), shape=(4, 4)
        )

    spectra = tuple(MatrixSpectrum(shape(name), None, {"snr": 1.0}) for name in MATRICES)
    return SpectralReport(model="m", fingerprint="", settings={}, matrices=spectra)


def patterns(path):
    content = yaml.safe_load(path.read_text())
    assert list(content) == ["unfrozen_parameters"]
    return content["unfrozen_parameters"]


@pytest.mark.parametrize("chosen", MATRICES)
def test_a_pattern_matches_its_parameter_and_no_other(tmp_path, chosen):
    write_unfrozen(tmp_path / "u.yaml", {chosen.removesuffix(".weight")}, whole_model(), embeddings=False)
    (pattern,) = patterns(tmp_path / "u.yaml")
    tried = [*PARAMETERS, *(f"{name}.absmax" for name in PARAMETERS), *(f"base.{name}" for name in PARAMETERS)]
    assert [name for name in tried if re.match(pattern, name)] == [chosen]


def test_a_list_has_the_chosen_matrices_and_nothing_else(tmp_path):
    chosen = set(MATRICES[1::2])
    names = {name.removesuffix(".weight") for name in chosen}
    write_unfrozen(tmp_path / "u.yaml", names | {"not.in.the.report"}, whole_model(), embeddings=False)
    found = patterns(tmp_path / "u.yaml")
    matched = [[name for name in PARAMETERS if re.match(pattern, name)] for pattern in found]
    assert all(len(names) == 1 for names in matched)
    assert {names[0] for names in matched} == chosen
    assert len(found) == len(chosen)


def test_embeddings_are_in_the_list_on_request(tmp_path):
    name = MATRICES[0].removesuffix(".weight")
    write_unfrozen(tmp_path / "with.yaml", {name}, whole_model(), embeddings=True)
    write_unfrozen(tmp_path / "without.yaml", {name}, whole_model(), embeddings=False)
    extra = [
        pattern for pattern in patterns(tmp_path / "with.yaml") if pattern not in patterns(tmp_path / "without.yaml")
    ]
    assert [[known for known in PARAMETERS if re.match(pattern, known)] for pattern in extra] == [
        ["lm_head.weight"],
        ["model.embed_tokens.weight"],
    ]
