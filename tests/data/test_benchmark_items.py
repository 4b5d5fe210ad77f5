"""Oracle: small folders made here, and the published sizes and gold labels of public test files where they are."""

import json
from pathlib import Path

import pytest

from spectral_ft.data import benchmark_items, choice_rows, rows
from spectral_ft.data.dataset import HubSplit
from spectral_ft.data.files import read_rows
from spectral_ft.errors import DataError

PUBLIC = Path(__file__).parents[3] / "shared" / "data"


def write(path, *answers):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps({"question": "q", "answer": answer}) for answer in answers))


def test_the_folder_itself_may_hold_the_file(tmp_path):
    write(tmp_path / "test.jsonl", "#### 1", "#### 2")
    assert [item.answer for item in benchmark_items.local_items(tmp_path, ["gsm8k"], rows.gsm8k)] == ["1", "2"]


def test_a_folder_of_many_tasks_is_looked_through_by_name(tmp_path):
    write(tmp_path / "test.jsonl", "#### 1")
    write(tmp_path / "GSM8K" / "test.jsonl", "#### 2")
    assert benchmark_items.local_file(tmp_path, ["gsm8k", "GSM8K"]) == tmp_path / "GSM8K" / "test.jsonl"


def test_a_missing_file_is_named_with_its_option(tmp_path):
    with pytest.raises(DataError, match=r"benchmark\.data_dir=.* holds none of test\.jsonl, test\.json, test\.tsv"):
        benchmark_items.local_items(tmp_path, ["gsm8k"], rows.gsm8k)


def test_an_empty_answer_is_named_with_its_row(tmp_path):
    write(tmp_path / "test.jsonl", "#### 1", "#### ")
    with pytest.raises(DataError, match=r"test\.jsonl, row 2: the answer is empty"):
        benchmark_items.local_items(tmp_path, ["gsm8k"], rows.gsm8k)


def test_two_rows_of_one_id_are_named(tmp_path):
    lines = [{"id": name, "question": "q", "answer": "#### 1"} for name in ("a", "b", "c", "b")]
    (tmp_path / "test.json").write_text(json.dumps(lines))
    with pytest.raises(DataError, match=r"test\.json, rows 2 and 4: both have the id b"):
        benchmark_items.local_items(tmp_path, [], rows.gsm8k)


def test_rows_may_have_different_ids_or_none(tmp_path):
    lines = [{"id": 1}, {"id": 2}, {}, {}]
    (tmp_path / "test.json").write_text(json.dumps([line | {"question": "q", "answer": "#### 1"} for line in lines]))
    assert len(benchmark_items.local_items(tmp_path, [], rows.gsm8k)) == 4


def test_a_missing_field_is_named_with_its_row(tmp_path):
    (tmp_path / "test.json").write_text('[{"question": "q", "answer": "#### 1"}, {"question": "q"}]')
    with pytest.raises(DataError, match=r"test\.json, row 2: no column 'answer'; its columns are question\."):
        benchmark_items.local_items(tmp_path, [], rows.gsm8k)


def test_examples_for_the_prompt_lie_beside_the_test_file(tmp_path):
    write(tmp_path / "gsm8k" / "test.jsonl", "#### 1")
    write(tmp_path / "gsm8k" / "train.jsonl", "#### 2", "#### 3")
    found = benchmark_items.local_fewshot_items(tmp_path, ["gsm8k"], rows.gsm8k)
    assert [item.answer for item in found] == ["2", "3"]


def test_without_a_training_file_there_are_no_examples(tmp_path):
    write(tmp_path / "test.jsonl", "#### 1")
    assert not benchmark_items.local_fewshot_items(tmp_path, ["gsm8k"], rows.gsm8k)


@pytest.mark.parametrize(
    ("output", "answer", "completion"),
    [
        ("the correct answer is true", "true", "the correct answer is true"),
        ("the correct answer is true", "false", "false"),
        ("A: he has 12 left", "8.0", "8"),
        ("", "1.5", "1.5"),
        ("", "-20.0", "-20"),
        ("Rationale: so B", "C", "C"),
    ],
)
def test_a_guess_in_a_test_file_is_not_what_should_be_written(tmp_path, output, answer, completion):
    row = {"instruction": "how many?", "input": "", "output": output, "answer": answer}
    (tmp_path / "test.json").write_text(json.dumps([row]))
    (item,) = benchmark_items.local_items(tmp_path, [], rows.instruction)
    assert (item.completion, item.answer) == (completion, answer)


def test_tab_separated_test_items_are_found(tmp_path):
    (tmp_path / "test.tsv").write_text("a film\t0\nanother\t1\n")
    found = benchmark_items.local_items(tmp_path, ["sst2"], rows.sst2)
    assert [(item.instruction, item.answer) for item in found] == [("a film", "negative"), ("another", "positive")]


def test_items_of_the_hub_are_converted_and_their_faults_named(monkeypatch):
    asked = []

    def download(*names, **options):
        asked.append((names, options))
        return [{"sentence": "a film", "label": 1}, {"sentence": "another", "label": -1}][: len(asked)]

    monkeypatch.setattr("spectral_ft.hub.download_rows", download)
    hub = HubSplit(id="nyu-mll/glue", name="sst2", split="validation")
    assert benchmark_items.hub_items(hub=hub, rows=rows.sst2) == [rows.Item("a film", "positive", "positive")]
    ((names, options),) = asked
    assert names == ("nyu-mll/glue",)
    assert options == {"name": "sst2", "split": "validation", "override": "benchmark.data_dir=FOLDER"}
    with pytest.raises(DataError, match=r"nyu-mll/glue, row 2: unexpected content \(the label is -1"):
        benchmark_items.hub_items(hub=hub, rows=rows.sst2)


def is_number(text):
    float(text)
    return True


is_choice = {f"answer{number}" for number in range(1, 6)}.__contains__


@pytest.mark.parametrize(
    ("folder", "convert", "count", "is_gold"),
    [
        ("gsm8k", rows.gsm8k, 1319, is_number),
        ("aqua", rows.aqua, 254, set("ABCDE").__contains__),
        ("llm_adapters/gsm8k", rows.gsm8k, 1319, is_number),
        ("llm_adapters/SVAMP", rows.svamp, 1000, is_number),
        ("llm_adapters/mawps", rows.mawps, 238, is_number),
        ("llm_adapters/AQuA", rows.aqua, 254, set("ABCDE").__contains__),
        ("sst2", rows.sst2, 1821, {"negative", "positive"}.__contains__),
        ("llm_adapters/boolq", rows.boolq, 3270, {"true", "false"}.__contains__),
        ("llm_adapters/ARC-Easy", choice_rows.arc, 2376, is_choice),
        ("llm_adapters/ARC-Challenge", choice_rows.arc, 1172, is_choice),
        ("llm_adapters/openbookqa", choice_rows.openbookqa, 500, is_choice),
    ],
)
def test_public_test_files_have_their_published_size_and_gold_labels(folder, convert, count, is_gold):
    if not (PUBLIC / folder).is_dir():
        pytest.skip(f"{folder} is not in ../shared/data")
    items = benchmark_items.local_items(PUBLIC / folder, [], convert)
    assert len(items) == count
    assert all(is_gold(item.answer) for item in items)


@pytest.mark.parametrize(
    ("raw", "copy", "convert"),
    [
        ("llm_adapters/SVAMP/SVAMP.json", "llm_adapters/SVAMP/test.json", rows.svamp),
        ("llm_adapters/mawps/testset.json", "llm_adapters/mawps/test.json", rows.mawps),
    ],
)
def test_a_raw_file_asks_what_its_copy_asks(raw, copy, convert, shared_data):
    def asked(file):
        return sorted((item.instruction, float(item.answer)) for item in map(convert, read_rows(shared_data / file)))

    assert asked(raw) == asked(copy)
