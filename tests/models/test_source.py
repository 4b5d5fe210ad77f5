"""Oracle: folders made here, and a hub that is replaced by a function."""

import pytest
from pydantic import ValidationError

from spectral_ft.errors import CheckpointError, ConfigError
from spectral_ft.models.source import ModelSource, describing_files, weight_files


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


PUBLISHED = [
    "README.md", "config.json", "model-1-of-2.safetensors", "model.safetensors.index.json", "modeling.py",
    "onnx/config.json", "original/consolidated.00.pth", "original/tokenizer.model", "pytorch_model.bin",
    "pytorch_model.bin.index.json", "tokenizer.json", "tokenizer.model", "vocab.txt",
]  # fmt: skip


def test_what_describes_a_model_is_small_and_at_the_top():
    described = {"config.json", "tokenizer.json", "tokenizer.model", "vocab.txt"}
    assert set(describing_files(PUBLISHED, code=False)) == described
    assert set(describing_files(PUBLISHED, code=True)) == {*described, "modeling.py"}
    several = ["chat_template.jinja", "additional_chat_templates/tool.jinja", "other/chat_template.jinja"]
    assert describing_files(several, code=False) == several[:2]


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (PUBLISHED, "model.safetensors.index.json"),
        (["pytorch_model.bin", "model.safetensors"], "model.safetensors"),
        (["pytorch_model.bin", "tf_model.h5"], "pytorch_model.bin"),
        (["pytorch_model.bin", "pytorch_model.bin.index.json", "x/model.safetensors"], "pytorch_model.bin.index.json"),
    ],
)
def test_weights_are_taken_in_one_format(names, chosen):
    assert weight_files(names, model="org/name") == [chosen]


@pytest.mark.parametrize("names", [["config.json", "model.Q4_K_M.gguf"], ["tf_model.h5"], []])
def test_a_repository_without_weights_is_refused(names):
    with pytest.raises(CheckpointError, match="org/name"):
        weight_files(names, model="org/name")
