"""What a run does about test items in its training set; oracle: files of eight rows of which some are planted."""

import json
import logging
import re

import pytest
from transformers import AutoTokenizer

from spectral_ft.errors import ConfigError, DataError, HubError
from spectral_ft.stages.examples import tokenised
from spectral_ft.stages.overlap import training_overlap
from spectral_ft.stages.reading import what_plans_read
from spectral_ft.storage import read_json
from spectral_ft.types import Overlap, RunResult
from tests.test_compose import built

TEST = [
    "Mia has 3 red kites and buys 4 more in the shop. How many kites are hers?",
    "A train of 12 cars loses 5 of them at night. How long is it now?",
    "Each of 6 boats carries 7 people over a river. How many people go?",
]
TRAIN = [
    "There were 9 birds and 2 of them flew off. How many birds stay?",
    "mia has 3 red kites, and buys 4 more in the shop; how many kites are hers",
    "Each of 16 boats carries 7 people over a river. How many people go?",
    "Tom has 3 red kites and buys 4 more in the shop. How many kites are his?",
    "A book has 30 pages and Ann reads 8 of them. How many are left?",
    "Each of 6 boats carries 7 people over a river. How many people go?",
    "We mix 2 cups of milk with 3 cups of flour. How many cups is that?",
    "If 10 pens cost 5 coins, what do 20 pens cost?",
]
EXACT, NEAR = {1, 5}, {3}


@pytest.fixture
def data(tmp_path):
    """A folder with training and test rows in the form of GSM8K."""
    return written(tmp_path / "data", TRAIN, TEST)


def written(folder, train, test):
    folder.mkdir()
    for name, asked in (("train", train), ("test", test)):
        rows = [{"question": text, "answer": f"It is {n}.\n#### {n}"} for n, text in enumerate(asked)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def gsm8k(data, *options):
    return built("dataset=gsm8k", "benchmark=gsm8k", f"dataset.data_dir={data}", "dataset.validation=0", *options)


def numbers_of(rows, experiment):
    """The answers of tokenised rows, which are their places in the file, read back through the tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(experiment.model.locate().folder)
    return sorted(int(re.search(r"(\d+)<eos>$", tokenizer.decode(row["input_ids"])).group(1)) for row in rows)


def trained_on(experiment, folder):
    return numbers_of(tokenised(experiment, experiment.model.locate(), folder).training.rows, experiment)


def test_the_record_names_rows_and_items(data, tmp_path):
    found = training_overlap(gsm8k(data), tmp_path / "run")
    (task,) = found.tasks
    assert [(match.kind, match.training, match.test) for match in task.matches] == [
        ("exact", (1,), (0,)),
        ("exact", (5,), (2,)),
        ("near", (3,), (0,)),
    ]
    assert task.counts == {"exact_items": 2, "near_items": 0, "exact_rows": 2, "near_rows": 1}
    assert (found.dataset, found.rows, found.dropped, found.left_out) == ("gsm8k", 8, True, EXACT | NEAR)
    assert found == read_json(tmp_path / "run" / "overlap.json", Overlap)
    assert found.summary == {
        "dataset": "gsm8k",
        "rows": 8,
        "concerned_rows": 3,
        "dropped_rows": 3,
        "threshold": 0.85,
        "tasks": {"gsm8k": {"items": 3, **task.counts}},
    }


@pytest.mark.parametrize("option", ["dataset.limit=null", "dataset.limit=5", "dataset.shuffle_seed=3"])
def test_no_test_item_is_trained_on(option, data, tmp_path):
    assert trained_on(gsm8k(data, option), tmp_path / "run") == [0, 2, 4, 6, 7]  # the limit counts what is left


def test_no_test_item_is_held_out(tmp_path):
    clean = [f"A bus takes {n} people to town and {n + 30} people back. How many is that?" for n in range(10, 30)]
    experiment = gsm8k(written(tmp_path / "data", [*clean, *20 * TEST], TEST), "dataset.validation=8")
    rows = tokenised(experiment, experiment.model.locate(), tmp_path / "run")
    held_out = numbers_of(rows.validation.rows, experiment)
    assert len(held_out) == 2  # a tenth of what is left
    assert sorted([*held_out, *numbers_of(rows.training.rows, experiment)]) == list(range(20))


def test_the_probe_looks_at_what_is_trained_on(data, tmp_path):
    experiment = gsm8k(data, "rank_policy=gradient", "probe.batches=2", "probe.batch_size=3")
    with pytest.raises(ConfigError, match=r"are 6 examples, and dataset=gsm8k has 5"):
        what_plans_read(experiment, experiment.model.locate(), parts=[experiment.parts], folder=tmp_path)
    assert (tmp_path / "overlap.json").exists()


def test_cached_tokens_are_of_what_is_left(data, tmp_path):
    dropped = trained_on(gsm8k(data), tmp_path / "one")
    kept = trained_on(gsm8k(data, "dataset.drop_overlap=false"), tmp_path / "two")
    assert (len(dropped), len(kept)) == (5, 8)
    assert trained_on(gsm8k(data), tmp_path / "three") == dropped


def test_what_is_kept_is_warned_of(data, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    found = training_overlap(gsm8k(data, "dataset.drop_overlap=false"), tmp_path)
    assert not found.dropped and found.left_out == frozenset() and found.concerned == EXACT | NEAR
    (record,) = [record for record in caplog.records if record.name.endswith("overlap")]
    assert record.levelname == "WARNING"
    assert record.getMessage() == (
        "3 of 8 training rows are test items (gsm8k: 2 exactly, 0 nearly) and are trained on, since "
        "dataset.drop_overlap=false"
    )


def test_what_is_dropped_is_told(data, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    training_overlap(gsm8k(data), tmp_path)
    training_overlap(gsm8k(data), tmp_path)  # is read
    (message,) = [record.getMessage() for record in caplog.records if record.name.endswith("overlap")]
    assert message.startswith("dropped 3 of 8 training rows, which are test items (gsm8k: 2 exactly, 0 nearly), in ")


def test_the_generated_family_is_clean_by_default(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    found = training_overlap(built(), tmp_path)
    assert [(task.task, task.items, task.matches) for task in found.tasks] == [("wordmath", 300, ())]
    assert found.rows == 4000 + 120
    assert "none of 4120 training rows is one of 300 test items" in caplog.text


def fetched(folder, rows, *, asks="Q: {{question}}", choices=""):
    """A task of the harness whose items it fetches itself, from a file that stands in for the hub."""
    (folder / "hub.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "hub.yaml").write_text(
        f"""
task: fetched
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder / "hub.jsonl"}}}, cache_dir: {folder / "arrow"}}}
test_split: test
output_type: {"multiple_choice" if choices else "generate_until"}
doc_to_text: {asks!r}
doc_to_target: "{{{{answer}}}}"
{choices}
"""
    )
    return f"benchmark.tasks.gsm8k.harness_task={folder / 'hub.yaml'}"


def fetching(data, *options):
    columns = ("dataset.rows.instruction=question", "dataset.rows.completion=answer")
    own = ("dataset=jsonl", f"dataset.data_dir={data / 'train.jsonl'}", "benchmark=gsm8k", "dataset.validation=0")
    return built(*own, *columns, *options)


def test_items_that_the_harness_fetches_are_compared_too(data, tmp_path):
    here = training_overlap(gsm8k(data), tmp_path / "here")
    rows = [{"question": text, "answer": f"#### {n}"} for n, text in enumerate(TEST)]
    found = training_overlap(fetching(data, fetched(tmp_path, rows), "benchmark.limit=1"), tmp_path / "run")
    assert found.tasks == here.tasks and found.left_out == EXACT | NEAR
    assert found.summary["tasks"]["gsm8k"]["items"] == 3


def test_of_columns_that_only_the_harness_knows_its_own_question_is_compared(data, tmp_path):
    things = ["roof", "lamp", "coat", "fork", "bell", "drum", "sock", "ring", "pipe", "boot"]
    others = [f"Somebody counts {n} {one}s beside {n + 20} {one} lids." for n, one in enumerate(things, start=40)]
    rows = [{"query": f"Q: {text} Among A through E, the answer is", "answer": "1"} for text in [*TEST, *others]]
    found = training_overlap(fetching(data, fetched(tmp_path, rows, asks="{{query}}")), tmp_path / "run")
    assert found.left_out == EXACT | NEAR  # what stands around every question does not count


def test_items_that_are_asked_in_no_one_text_are_said_not_to_be_compared(data, tmp_path, caplog):
    rows = [{"begun": text, "right": 0, "answer": "end"} for text in TEST]
    option = fetched(tmp_path, rows, asks="{{right}}", choices="doc_to_choice: ['{{begun}} a', '{{begun}} b']")
    found = training_overlap(fetching(data, option), tmp_path / "run")
    assert [(task.items, task.matches) for task in found.tasks] == [(None, ())]
    assert found.summary["tasks"] == {"gsm8k": None}
    (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
    assert record.getMessage().startswith("gsm8k: lm-eval's own task asks in another form than one text")


def test_a_hub_out_of_reach_is_told_and_nothing_is_recorded(data, tmp_path):
    with pytest.raises(HubError, match=r"benchmark gsm8k .*HF_HUB_OFFLINE.*benchmark\.data_dir=FOLDER"):
        training_overlap(fetching(data), tmp_path / "run")
    assert not (tmp_path / "run" / "overlap.json").exists()


def test_all_items_count_whatever_the_limit_of_the_benchmark(data, tmp_path):
    assert training_overlap(gsm8k(data, "benchmark.limit=1"), tmp_path).left_out == EXACT | NEAR


def test_nothing_left_is_told_before_anything_loads(tmp_path):
    data = written(tmp_path / "data", [*TEST, TRAIN[3]], TEST)
    message = (
        r"^dataset=gsm8k: all 4 training rows are test items \(gsm8k: 3 exactly, 0 nearly\), so that none is left to "
        r"train on: take another data set or another benchmark, or keep them with dataset\.drop_overlap=false\.$"
    )
    for _ in range(2):  # where it is read, too
        with pytest.raises(DataError, match=message):
            training_overlap(gsm8k(data), tmp_path / "run")
    assert len(training_overlap(gsm8k(data, "dataset.drop_overlap=false"), tmp_path / "other").concerned) == 4


def test_a_damaged_record_is_made_again(data, tmp_path, caplog):
    found = training_overlap(gsm8k(data), tmp_path)
    (tmp_path / "overlap.json").write_text('{"dataset": "gsm8k", "rows"')
    assert training_overlap(gsm8k(data), tmp_path) == found == read_json(tmp_path / "overlap.json", Overlap)
    assert "overlap.json is damaged or was edited" in caplog.text


def test_a_run_records_it_in_counts(finished):
    summary = read_json(finished / "result.json", RunResult).overlap
    assert summary == read_json(finished / "overlap.json", Overlap).summary
    assert summary is not None and summary["tasks"]["wordmath"]["items"] == 300
    assert (summary["rows"], summary["dropped_rows"]) == (64 + 120, 0)
