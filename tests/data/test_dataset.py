"""Oracle: a file of three rows, prompted and cut by eye."""

import json

import pytest
from pydantic import ValidationError

from spectral_ft.data import rows
from spectral_ft.data.dataset import Dataset, HubSplit
from spectral_ft.data.prompts import alpaca
from spectral_ft.errors import ConfigError, DataError

ROWS = [{"question": f"{n}?", "answer": f"It is {n}.\n#### {n}"} for n in range(20)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    return tmp_path


def dataset(**options):
    defaults = {
        "name": "gsm8k",
        "rows": rows.gsm8k,
        "prompt": "question",
        "hub": None,
        "data_dir": None,
        "files": ["train.jsonl", "train.json"],
        "limit": None,
        "validation": 0,
        "shuffle_seed": None,
        "train_on_inputs": False,
        "drop_overlap": True,
        "max_length": 256,
        "too_long": "truncate",
    }
    return Dataset(**defaults | options)


def test_examples_are_prompts_and_completions_in_the_files_order(folder):
    examples = dataset(data_dir=str(folder)).examples()
    assert len(examples) == 20
    assert examples[3] == ("Question: 3?\nAnswer:", " It is 3.\n#### 3", 3)


@pytest.mark.parametrize(
    ("prompt", "completion"), [("alpaca", "It is 0.\n#### 0"), ("plain", " It is 0.\n#### 0")], ids=["alpaca", "plain"]
)
def test_exactly_one_space_parts_prompt_and_completion(folder, prompt, completion):
    assert dataset(data_dir=str(folder), prompt=prompt).examples()[0].completion == completion


def test_a_completion_with_its_own_space_gets_no_second_one(tmp_path):
    (tmp_path / "train.json").write_text('[{"instruction": "2 and 2?", "output": "\\n4"}]')
    own = dataset(data_dir=str(tmp_path), rows=rows.instruction, prompt="plain")
    assert own.examples() == [("2 and 2?", "\n4", 0)]


def test_the_alpaca_prompt_is_the_template(folder):
    assert dataset(data_dir=str(folder), prompt="alpaca").examples()[0].prompt == alpaca("0?")


def test_a_shuffle_is_a_permutation_that_its_seed_repeats(folder):
    plain = dataset(data_dir=str(folder)).examples()
    one, again, other = (dataset(data_dir=str(folder), shuffle_seed=seed).examples() for seed in (1, 1, 2))
    assert one == again
    assert one != other
    assert one != plain
    assert sorted(one) == sorted(plain)


def test_the_limit_comes_after_the_shuffle(folder):
    whole = dataset(data_dir=str(folder), shuffle_seed=1).examples()
    assert dataset(data_dir=str(folder), shuffle_seed=1, limit=4).examples() == whole[:4]


def test_a_limit_above_the_size_takes_all(folder):
    assert len(dataset(data_dir=str(folder), limit=1000).examples()) == 20


def test_a_data_set_needs_a_source():
    with pytest.raises(ConfigError, match=r"dataset=gsm8k has no source: give dataset\.data_dir=FILE_OR_FOLDER"):
        dataset()


def test_a_missing_file_is_noticed_before_it_is_read(tmp_path, folder):
    dataset(data_dir=str(folder)).check_source()
    with pytest.raises(DataError, match=r"dataset\.data_dir=.*holds none of valid\.csv"):
        dataset(data_dir=str(folder), files=["valid.csv"]).check_source()


HUB = HubSplit(id="openai/gsm8k", name="main", split="train")


def test_rows_of_the_hub_are_converted_alike(monkeypatch, folder):
    asked = []
    monkeypatch.setattr(
        "spectral_ft.hub.download_rows", lambda *names, **options: asked.append((names, options)) or list(ROWS)
    )
    from_hub = dataset(hub=HUB)
    from_hub.check_source()
    assert asked.pop()
    assert from_hub.examples() == dataset(data_dir=str(folder)).examples()
    ((names, options),) = asked
    assert names == ("openai/gsm8k",)
    assert (options["name"], options["split"]) == ("main", "train")


def test_a_fault_in_the_hubs_rows_is_named_with_its_id(monkeypatch):
    monkeypatch.setattr("spectral_ft.hub.download_rows", lambda *_, **__: [{"text": "t"}])
    with pytest.raises(DataError, match="openai/gsm8k, row 1: no column 'answer'"):
        dataset(hub=HUB).examples()


def test_a_local_folder_wins_over_the_hub(monkeypatch, folder):
    def refuse(*_, **__):
        raise AssertionError("asked for")

    monkeypatch.setattr("spectral_ft.hub.download_rows", refuse)
    assert len(dataset(hub=HUB, data_dir=str(folder)).examples()) == 20


@pytest.mark.parametrize("wrong", [{"limit": 0}, {"prompt": "chat"}, {"max_length": 1}, {"too_long": "skip"}])
def test_options_that_cannot_be_are_refused(folder, wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        dataset(data_dir=str(folder), **wrong)


def test_a_text_with_a_class_is_a_prompt_and_the_name_of_the_class(tmp_path):
    (tmp_path / "train.tsv").write_text("a good film\t1\nnot good\t0\n")
    own = dataset(data_dir=str(tmp_path), rows=rows.sst2, prompt="plain", files=["train.tsv"])
    assert own.examples() == [("a good film", " positive", 0), ("not good", " negative", 1)]


@pytest.mark.parametrize(
    ("limit", "validation", "trained", "held"),
    [
        (None, 0, 20, 0),
        (None, 1, 19, 1),
        (None, 120, 18, 2),
        (5, 120, 5, 2),
        (19, 2, 18, 2),
        (30, 2, 18, 2),
        (1, 2, 1, 2),
    ],
)
def test_held_out_examples_are_not_trained_on(folder, limit, validation, trained, held):
    one = dataset(data_dir=str(folder), limit=limit, validation=validation)
    examples, held_out = one.examples(), one.validation_examples()
    assert (len(examples), len(held_out)) == (trained, held)
    assert not set(examples) & set(held_out)
    assert held_out == one.validation_examples()
    if limit is not None and limit + held <= 20:  # behind the training examples, which are those of no validation
        assert examples == dataset(data_dir=str(folder), limit=limit).examples()


@pytest.mark.parametrize("seed", [None, 1])
@pytest.mark.parametrize(("limit", "validation"), [(None, 0), (4, 0), (None, 2), (4, 2), (19, 1)])
def test_rows_that_are_left_out_come_back_nowhere(folder, seed, limit, validation):
    one = dataset(data_dir=str(folder), shuffle_seed=seed, limit=limit, validation=validation)
    assert one.instructions() == [row["question"] for row in ROWS]  # in the file's order, shuffled or not
    left_out = {0, 3, 4, 11, 19}
    kept, held_out = one.examples(left_out), one.validation_examples(left_out)
    gone = {f"Question: {n}?\nAnswer:" for n in left_out}
    assert not gone & {example.prompt for example in kept + held_out}
    held = min(validation, 15 // 10)
    assert len(held_out) == held
    assert len(kept) == min(limit or 20, 15 - held)  # the limit counts what is left
    assert all(example.prompt == f"Question: {example.row}?\nAnswer:" for example in kept + held_out)
    assert not set(kept) & set(held_out)


def test_what_is_left_keeps_the_order_of_the_whole(folder):
    one = dataset(data_dir=str(folder), shuffle_seed=1)
    assert one.examples({3}) == [e for e in one.examples() if e.prompt != "Question: 3?\nAnswer:"]


def test_rows_with_an_empty_answer_are_left_out_and_counted(tmp_path, caplog):
    outputs = ["a", "", "b", " \n", "c"]
    rows_there = [{"instruction": f"{n}", "output": output} for n, output in enumerate(outputs)]
    (tmp_path / "train.json").write_text(json.dumps(rows_there))
    one = dataset(data_dir=str(tmp_path), rows=rows.instruction, prompt="plain")
    with caplog.at_level("WARNING"):
        assert [example.row for example in one.examples()] == [0, 2, 4]
        assert one.examples({2}) == [("0", " a", 0), ("4", " c", 4)]
    assert len(one.instructions()) == 5  # rows keep their places
    (said,) = [record.getMessage() for record in caplog.records]
    assert "2 of 5 rows" in said and str(tmp_path) in said


def test_a_file_without_any_answer_is_refused(tmp_path):
    (tmp_path / "train.json").write_text(json.dumps([{"instruction": "i", "output": ""}] * 2))
    with pytest.raises(DataError, match="all 2 rows have an empty answer"):
        dataset(data_dir=str(tmp_path), rows=rows.instruction).examples()
