"""Oracle: small models of every kind on folders made here; a hub that is replaced by a function."""

import json

import pytest
from peft import LoraConfig, get_peft_model
from torch.nn import init

from spectral_ft.errors import ConfigError, DataError
from spectral_ft.models.loading import load_model
from spectral_ft.stages import evaluation
from spectral_ft.stages.benchmarks import source_tasks
from spectral_ft.stages.evaluation import Scorer
from tests.models.small_checkpoints import save_bert, save_t5
from tests.test_compose import built

REVIEWS = [("a good film", 1), ("a bad film", 0), ("not bad", 1), ("the bad", 0)]


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name in ("train", "test"):
        (folder / f"{name}.tsv").write_text("\n".join(f"{text}\t{label}" for text, label in REVIEWS))
    return folder


@pytest.fixture
def bert(tmp_path):
    return save_bert(tmp_path / "bert", initializer_range=0.5)


def classifier(bert, *options):
    return built("model=minilm", f"model.path={bert}", "benchmark.cache=false", *options)


def scored(experiment, folder):
    scorer = Scorer(experiment, experiment.model.locate(), source_tasks(experiment))
    return scorer.score(folder, adapter=folder / "adapter" if (folder / "adapter").is_dir() else None)


@pytest.mark.parametrize(
    ("options", "task"),
    [
        (["model=minilm"], "sst2"),
        (["model=minilm", "dataset=imdb"], "imdb"),
        (["model=minilm", "dataset=imdb", "benchmark=sst2"], "sst2"),
        (["model=bert-base"], "imdb"),
        (["model=bert-base", "dataset=sst2"], "sst2"),
    ],
)
def test_a_classifier_is_scored_on_what_it_is_trained_on(options, task):
    experiment = built(*options)
    assert list(experiment.benchmark.tasks) == [task]
    assert experiment.benchmark.tasks[task].classes == experiment.model.labels == ["negative", "positive"]


def test_a_classifier_is_scored_by_its_labels(bert, data, tmp_path):
    experiment = classifier(bert, f"dataset.data_dir={data}", "benchmark.stages=[base]")
    scores = scored(experiment, tmp_path / "run")
    assert [(score.metric, score.stage, score.n, score.extractor) for score in scores] == [
        ("acc", "base", 4, "argmax"),
        ("f1", "base", 4, "argmax"),
        ("loss", "base", 4, "argmax"),
    ]
    lines = (tmp_path / "run" / "samples" / "sst2.jsonl").read_text().splitlines()
    samples = [json.loads(line) for line in lines]
    assert sum(row["response"] == row["gold"] for row in samples) / 4 == scores[0].value
    assert [row["gold"] for row in samples] == ["positive", "negative", "positive", "negative"]


def test_a_trained_head_is_scored_as_tuned(bert, data, tmp_path):
    experiment = classifier(bert, f"dataset.data_dir={data}", "seed=5")
    base = load_model(
        bert,
        kind="classifier",
        labels=experiment.model.labels,
        quantization=experiment.quantization,
        dtype="float32",
        trust_remote_code=False,
        head_seed=5,
    )
    adapted = get_peft_model(base, LoraConfig(task_type="SEQ_CLS", target_modules=["query"]))
    init.constant_(adapted.base_model.model.classifier.modules_to_save["default"].weight, 0.0)
    adapted.save_pretrained(tmp_path / "run" / "adapter")
    scores = {(score.stage, score.metric): score.value for score in scored(experiment, tmp_path / "run")}
    assert scores["tuned", "loss"] == pytest.approx(0.693147, abs=1e-5)  # a head of zeros knows nothing: ln 2
    assert scores["base", "loss"] != pytest.approx(0.693147, abs=1e-3)


def test_base_scores_are_shared_by_runs_of_one_head(bert, data, tmp_path, monkeypatch):
    def base(seed, run):
        options = [f"dataset.data_dir={data}", "benchmark.stages=[base]", f"benchmark.cache={tmp_path / 'cache'}"]
        return scored(classifier(bert, *options, f"seed={seed}"), tmp_path / run)

    first, other = base(0, "one"), base(1, "two")
    assert first[2].value != other[2].value
    monkeypatch.setattr(evaluation, "load_base", None)
    assert base(0, "three") == first


def test_a_seq2seq_model_is_scored_through_the_harness(tmp_path):
    t5 = save_t5(tmp_path / "t5", n_positions=64)
    options = ["model.kind=seq2seq", "dataset=wordmath", "benchmark=wordmath", "benchmark.limit=2"]
    experiment = built("model=hf", f"model.path={t5}", *options, "benchmark.stages=[base]", "benchmark.cache=false")
    scores = scored(experiment, tmp_path / "run")
    assert {(score.task, score.n) for score in scores} == {("wordmath", 2)}
    assert [score.value for score in scores if score.metric == "exact_match"] == [0.0, 0.0]


def test_a_local_folder_wins_over_the_hub(bert, data, monkeypatch):
    asked = []
    monkeypatch.setattr("spectral_ft.hub.download_rows", lambda *a, **k: asked.append(a) or [{"text": "x", "label": 1}])
    (task,) = source_tasks(classifier(bert, f"benchmark.data_dir={data}"))
    assert (len(task.items), asked) == (4, [])
    (task,) = source_tasks(classifier(bert, "benchmark=imdb"))
    assert [item.answer for item in task.items] == ["positive"]
    assert asked == [("stanfordnlp/imdb",)]


def test_a_training_file_is_not_taken_for_the_test(bert, data):
    (task,) = source_tasks(classifier(bert, f"dataset.data_dir={data / 'train.tsv'}"))
    assert len(task.items) == 4
    (data / "test.tsv").unlink()
    with pytest.raises(DataError, match=r"holds none of test\.jsonl, test\.json, test\.tsv"):
        source_tasks(classifier(bert, f"dataset.data_dir={data / 'train.tsv'}"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model=minilm", "model.path=x", "benchmark=wordmath"], "benchmark wordmath wants a written answer"),
        (["benchmark=sst2"], "benchmark sst2 sorts texts into negative, positive"),
        (["model=minilm", "model.path=x", "model.labels=[bad,good]"], "has the class 'negative', none of model.labels"),
    ],
)
def test_a_task_that_the_model_cannot_do_is_refused_before_anything_loads(options, message):
    with pytest.raises(ConfigError, match=message):
        source_tasks(built(*options))


@pytest.mark.parametrize("name", ["gsm8k", "aqua"])
def test_the_standard_task_on_raw_local_files_is_lm_evals_own(name, shared_data, tmp_path):
    options = [f"benchmark={name}", f"benchmark.data_dir={shared_data}", "benchmark.protocol=standard"]
    (task,) = source_tasks(built(*options))
    prepared = task.prepare(0, tmp_path)
    assert prepared.protocol == "standard"
    assert "lm_eval/tasks" in prepared.file.read_text().splitlines()[0]
    with pytest.raises(ConfigError, match="lack what lm-eval's own task shows"):
        source_tasks(built(*options[::2], f"benchmark.data_dir={shared_data / 'llm_adapters'}"))
