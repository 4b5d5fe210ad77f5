"""Oracle: folders made here, and a hub that is replaced by a function."""

import pytest
from pydantic import ValidationError

from spectral_ft.errors import CheckpointError, ConfigError
from spectral_ft.models.source import FILES, ModelSource


def source(**options):
    nothing = {"name": None, "id": None, "revision": None, "path": None, "kind": "causal_lm", "labels": None}
    return ModelSource(**nothing | {"dtype": "auto", "attention": None, "trust_remote_code": False} | options)


def test_a_model_needs_a_source():
    with pytest.raises(ConfigError, match=r"the model has no source: give model\.id=ORGANISATION/NAME or model\.path"):
        source()


@pytest.mark.parametrize("labels", [None, [], ["one"], ["one", "one"], ["one", "two", "one"]])
def test_a_classifier_needs_different_labels(labels):
    with pytest.raises(ConfigError, match=r"model\.labels=.*: a classifier needs the names of at least two different"):
        source(path="p", kind="classifier", labels=labels)


@pytest.mark.parametrize("kind", ["causal_lm", "seq2seq"])
def test_only_a_classifier_has_labels(kind):
    with pytest.raises(ConfigError, match=rf"model\.labels=\['a', 'b'\] means nothing with model\.kind={kind}"):
        source(path="p", kind=kind, labels=["a", "b"])


def test_labels_keep_their_order():
    assert source(path="p", kind="classifier", labels=["b", "a", "c"]).labels == ["b", "a", "c"]


def test_a_kind_that_does_not_exist_is_refused():
    with pytest.raises(ValidationError, match="kind"):
        source(path="p", kind="encoder")


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({"name": "n", "id": "org/i", "path": "p"}, "n"),
        ({"id": "org/i", "path": "p"}, "org/i"),
        ({"path": "p"}, "p"),
    ],
)
def test_the_label_is_the_shortest_name_there_is(options, label):
    assert source(**options).label == label


def test_a_local_folder_wins_over_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    assert source(id="org/name", path="~/model").locate().folder == tmp_path / "model"


def test_a_missing_local_folder_is_not_looked_for_on_the_hub(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        source(id="org/name", path=str(tmp_path / "nowhere")).locate()


def test_a_model_from_the_hub_is_asked_for_without_pickles(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    asked = []
    monkeypatch.setattr(
        "spectral_ft.hub.download_model",
        lambda model, *, revision, patterns: asked.append((model, revision, patterns)) or tmp_path,
    )
    assert source(id="org/name", revision="main").locate().folder == tmp_path
    assert asked == [("org/name", "main", FILES)]
    assert not any(pattern.endswith((".bin", ".pt", ".pkl")) for pattern in FILES)
