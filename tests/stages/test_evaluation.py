"""Oracle: small models of every kind on folders made here; a hub that is replaced by a function."""

import copy
import json
import shutil

import pytest
from peft import LoraConfig, get_peft_model
from torch.nn import init
from transformers import AutoModelForCausalLM

from spectral_ft.adapters.origin import write_origin
from spectral_ft.errors import CheckpointError, ConfigError, DataError
from spectral_ft.evaluation.rules import RULES
from spectral_ft.models.loading import load_model
from spectral_ft.stages.adapters import adapter_folders
from spectral_ft.stages.base import load_base
from spectral_ft.stages.benchmarks import source_tasks
from spectral_ft.stages.evaluation import Scorer
from spectral_ft.training.train import seed_everything
from spectral_ft.types import AllocationPlan
from tests.conftest import EMBEDDED, REPOSITORY
from tests.models.small_checkpoints import save_bert, save_t5
from tests.test_compose import built

LOADER = "spectral_ft.stages.base.load_base"
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


def test_f1_is_of_the_tasks_last_class_in_any_order_of_the_labels(bert, data, tmp_path):
    for labels in (["negative", "positive"], ["positive", "negative"]):
        options = (f"dataset.data_dir={data}", "benchmark.stages=[base]", f"model.labels=[{','.join(labels)}]")
        folder = tmp_path / labels[0]
        (f1,) = [one for one in scored(classifier(bert, *options), folder) if one.metric == "f1"]
        rows = [json.loads(line) for line in (folder / "samples" / "sst2.jsonl").read_text().splitlines()]
        said, right = ([row[of] == "positive" for row in rows] for of in ("response", "gold"))
        both = sum(one and other for one, other in zip(said, right, strict=True))
        assert f1.value == pytest.approx(2 * both / (sum(said) + sum(right)))


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
    monkeypatch.setattr(LOADER, None)
    assert base(0, "three") == first


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", None),
        ("generation_config.json", '{"repetition_penalty": 1.5}'),
        ("chat_template.jinja", "{{ messages }}"),
        ("tokenizer_config.json", None),
        ("tokenizer.json", None),
    ],
)
def test_base_scores_are_of_the_tokenizer_and_the_settings_too(file, text, bert, data, tmp_path, monkeypatch):
    def base(run):
        options = [f"dataset.data_dir={data}", "benchmark.stages=[base]", f"benchmark.cache={tmp_path / 'cache'}"]
        return scored(classifier(bert, *options), tmp_path / run)

    first = base("one")
    loaded = []
    original = load_base
    monkeypatch.setattr(LOADER, lambda *given: loaded.append(1) or original(*given))
    (bert / "README.md").write_text("what changes no score")
    assert (base("two"), loaded) == (first, [])
    (bert / file).write_text(text or f"{(bert / file).read_text()} ")
    base("three")
    assert loaded == [1]


def test_base_scores_are_of_the_evaluators_code_too(bert, data, tmp_path, monkeypatch):
    from spectral_ft.evaluation import classifier as evaluator

    def prepared(folder):
        (task,) = source_tasks(classifier(bert, f"dataset.data_dir={data}"))
        return task.prepare(None, folder).fingerprint

    before = prepared(tmp_path / "tasks")
    assert {"classifier.py", "classification.py", "logits.py"} == set(evaluator.CODE)
    for name in evaluator.CODE:
        code = tmp_path / name.removesuffix(".py")
        code.mkdir()
        for each in evaluator.CODE:
            text = (REPOSITORY / "spectral_ft" / "evaluation" / each).read_text()
            (code / each).write_text(text + "\n" * (each == name))
        monkeypatch.setattr(evaluator, "__file__", str(code / "classifier.py"))
        assert prepared(tmp_path / "tasks") != before


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


@pytest.mark.parametrize(
    ("suite", "left_out", "counts"),
    [
        ("core", [], {"gsm8k": 1319, "aqua": 254, "boolq": 3270}),
        ("arithmetic", [], {"aqua": 254, "gsm8k": 1319, "mawps": 238, "svamp": 1000}),
        (
            "commonsense",
            ["piqa", "siqa", "hellaswag", "winogrande"],  # not in ../shared/data
            {"boolq": 3270, "arc_easy": 2376, "arc_challenge": 1172, "openbookqa": 500},
        ),
    ],
)
def test_a_suite_reads_the_published_files(suite, left_out, counts, shared_data, caplog):
    options = [f"benchmark={suite}", f"benchmark.data_dir={shared_data / 'llm_adapters'}"]
    tasks = source_tasks(built("model=llama-7b", *options, *(f"~benchmark.tasks.{name}" for name in left_out)))
    assert {task.task.name: len(task.items) for task in tasks} == counts
    assert {task.protocol for task in tasks} == {"paper"}
    assert not caplog.records


def test_the_whole_commonsense_suite_is_read_from_one_folder(tmp_path, caplog):
    words = {
        "boolq": "true", "piqa": "solution1", "social_i_qa": "answer1", "hellaswag": "ending1", "winogrande": "option1",
        "ARC-Easy": "answer1", "ARC-Challenge": "answer1", "openbookqa": "answer1",
    }  # fmt: skip
    for folder, word in words.items():
        (tmp_path / folder).mkdir()
        row = {"instruction": f"{folder}?", "input": "", "output": f"the correct answer is {word}", "answer": word}
        (tmp_path / folder / "test.json").write_text(json.dumps([row]))
    tasks = source_tasks(built("model=llama-7b", "benchmark=commonsense", f"benchmark.data_dir={tmp_path}"))
    assert [task.items[0].instruction for task in tasks] == [f"{folder}?" for folder in words]
    for task, word in zip(tasks, words.values(), strict=True):
        assert task.items[0].answer == word
        prepared = task.prepare(None, tmp_path / "tasks")
        assert RULES[prepared.rules["strict"]](f"the correct answer is {word}", word).right
    assert len(caplog.records) == 8  # each has one item where the published file has more


@pytest.mark.parametrize("folder", ["boolq", "openbookqa", "ARC-Easy", "ARC-Challenge"])
def test_a_training_side_of_the_copies_is_read_as_ones_own_data(folder, shared_data):
    data = shared_data / "llm_adapters" / folder
    name = folder.lower().replace("-", "_")
    options = ["dataset=jsonl", f"dataset.data_dir={data}", "dataset.prompt=alpaca", "dataset.validation=0"]
    experiment = built("model=llama-7b", *options, f"dataset.name={name}", f"benchmark={name}")
    examples = experiment.dataset.examples()
    rows = json.loads((data / "train.json").read_text())
    assert [example.completion.strip() for example in examples] == [row["output"] for row in rows]
    assert all(row["instruction"] in example.prompt for row, example in zip(rows, examples, strict=True))
    (task,) = source_tasks(experiment)
    assert (len(task.items), task.protocol) == (task.task.size, "paper")


@pytest.mark.parametrize("name", ["gsm8k", "aqua"])
def test_the_standard_task_on_raw_local_files_is_lm_evals_own(name, shared_data, tmp_path):
    options = [f"benchmark={name}", f"benchmark.data_dir={shared_data}", "benchmark.protocol=standard"]
    (task,) = source_tasks(built(*options))
    prepared = task.prepare(0, tmp_path)
    assert prepared.protocol == "standard"
    assert "lm_eval/tasks" in prepared.file.read_text().splitlines()[0]
    with pytest.raises(ConfigError, match="lack what lm-eval's own task shows"):
        source_tasks(built(*options[::2], f"benchmark.data_dir={shared_data / 'llm_adapters'}"))


@pytest.fixture
def adapters(tmp_path):
    """Two that change what the embedded model writes, in folders as runs and as nothing else has them."""
    base = AutoModelForCausalLM.from_pretrained(EMBEDDED)
    folders = {"one": tmp_path / "one" / "adapter", "two": tmp_path / "two"}
    for seed, folder in enumerate(folders.values()):
        seed_everything(seed)
        config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "up_proj"], init_lora_weights=False)
        adapted = get_peft_model(copy.deepcopy(base), config)
        adapted.save_pretrained(folder)
    return {name: tmp_path / name for name in folders}


def embedded(*options):
    return built("benchmark.limit=6", "benchmark.cache=false", "benchmark.gold_loss=true", *options)


def test_one_loaded_base_answers_for_every_adapter(adapters, tmp_path, monkeypatch):
    loaded = []
    original = load_base
    monkeypatch.setattr(LOADER, lambda *given: loaded.append(1) or original(*given))
    experiment = embedded()
    checkpoint = experiment.model.locate()
    places = adapter_folders([str(folder) for folder in adapters.values()], "tiny", checkpoint)
    assert list(places) == ["one", "two"] and places["one"].name == "adapter"

    def score(scorer, name, folder):
        return scorer.score(tmp_path / folder / name, adapter=places[name])

    together = Scorer(experiment, checkpoint, source_tasks(experiment))
    found = {name: score(together, name, "together") for name in places}
    assert len(loaded) == 1
    for name, scores in found.items():
        assert score(Scorer(experiment, checkpoint, source_tasks(experiment)), name, "alone") == scores
        files = [tmp_path / folder / name / "samples" / "wordmath.jsonl" for folder in ("together", "alone")]
        assert files[0].read_text() == files[1].read_text()
    losses = {(name, s.stage): s.value for name, scores in found.items() for s in scores if s.metric == "gold_loss"}
    assert losses["one", "base"] == losses["two", "base"]
    assert len({losses["one", "tuned"], losses["two", "tuned"], losses["one", "base"]}) == 3
    monkeypatch.setattr(LOADER, None)
    assert score(Scorer(experiment, checkpoint, source_tasks(experiment)), "two", "together") == found["two"]


@pytest.mark.parametrize(
    ("named", "sentence"),
    [
        ("nowhere", "adapter=nowhere is no folder: give that of an adapter, or of a finished run"),
        ("{empty}", "holds no adapter: neither adapter_config.json nor trained.safetensors is there"),
        (["{one}", "{one}"], "is named twice: each adapter is scored once"),
        (["{one}", "{foreign}"], "was trained on another .*, not on tiny .* Give the base it belongs to"),
    ],
)
def test_an_adapter_that_cannot_be_scored_is_refused_before_the_base_loads(named, sentence, adapters, tmp_path):
    (tmp_path / "empty").mkdir()
    foreign = shutil.copytree(adapters["two"], tmp_path / "foreign")
    plan = AllocationPlan(allocations=(), trainable_parameters=0, adapter_parameters=0, base_parameters=1)
    write_origin(foreign, model="another", fingerprint="0", plan=plan)
    places = {"one": adapters["one"], "empty": tmp_path / "empty", "foreign": foreign}
    said = [one.format(**places) for one in ([named] if isinstance(named, str) else named)]
    with pytest.raises((CheckpointError, ConfigError), match=sentence):
        adapter_folders(said, "tiny", embedded().model.locate())


def test_names_of_adapters_take_as_many_parts_as_they_need(adapters, tmp_path):
    for sweep in ("a", "b"):
        shutil.copytree(adapters["one"], tmp_path / sweep / "run")
    named = [str(tmp_path / "a" / "run"), str(tmp_path / "b" / "run")]
    assert list(adapter_folders(named, "tiny", embedded().model.locate())) == ["run", "b_run"]
    assert adapter_folders(None, "tiny", embedded().model.locate()) == {"base": None}
