"""Published numbers; oracle: the averages that the papers print, and the sizes of the benchmarks' test files."""

import pytest
import yaml

from spectral_ft.configuration import CONF, PUBLISHED
from spectral_ft.errors import DataError
from spectral_ft.reporting.published import published_scores, read_published

AVERAGES = {
    "arithmetic": {"pref_t": 35.0, "adapter_s": 44.6, "adapter_p": 46.4, "lora": 46.9, "lora_ar": 51.61},
    "commonsense": {"lora": 80.8, "dora_r16": 85.0, "dora_r32": 85.2, "lora_ar": 85.4},
}
"""As they are printed, in percent."""
HEAD = "arm,task,value,n,params_percent,source\n"


@pytest.mark.parametrize("table", AVERAGES)
def test_the_rows_of_each_table_average_to_what_is_printed(table):
    scores = read_published(PUBLISHED / table / "published.csv")
    assert {score.arm for score in scores} == {f"{table}/{arm}" for arm in AVERAGES[table]}
    for arm, average in AVERAGES[table].items():
        values = [score.value for score in scores if score.arm == f"{table}/{arm}"]
        assert sum(values) / len(values) == pytest.approx(average, abs=0.06)


@pytest.mark.parametrize("table", AVERAGES)
def test_tasks_and_items_are_those_of_the_benchmarks(table):
    suite = yaml.safe_load((CONF / "benchmark" / f"{table}.yaml").read_text())["defaults"][:-1]
    sizes = {
        task: yaml.safe_load((CONF / "benchmark" / f"{task}.yaml").read_text())["tasks"][task]["size"] for task in suite
    }
    for score in read_published(PUBLISHED / table / "published.csv"):
        assert score.n == sizes[score.task] and ("arXiv:" in score.source or "github.com" in score.source)


def test_a_score_is_a_share_of_its_items_as_far_as_it_is_printed():
    # LoRA-AR's have two digits, enough to tell that they are whole numbers of right answers.
    for score in published_scores(["arithmetic/lora_ar"]):
        right = score.value / 100 * score.n
        assert abs(right - round(right)) <= 0.01 / 100 * score.n and score.params_percent == 0.821


def test_only_the_arms_that_are_asked_for_are_found():
    found = published_scores(["commonsense/lora", "tiny/uniform"])
    assert {score.arm for score in found} == {"commonsense/lora"} and len(found) == 8


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("arm,task\na,b\n", "row 1, value: "),
        (HEAD + "a,b,x,1,1,s\n", "row 1, value: Input should be a valid number"),
        (HEAD + "a,b,1,1,1,s\na,c,101,1,1,s\n", "row 2, value: "),
        (HEAD + "a,b,1,1,1,\n", "row 1, source: "),
        (HEAD + "a,b,1,1,1,s\na,b,2,1,1,s\n", "has b of a twice"),
    ],
)
def test_a_file_that_is_no_such_table_is_refused(tmp_path, text, sentence):
    (tmp_path / "published.csv").write_text(text)
    with pytest.raises(DataError, match=sentence):
        read_published(tmp_path / "published.csv")
