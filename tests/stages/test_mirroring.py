"""What a tracker is shown; oracles: the report and plan that were handed in, and runs of the embedded model."""

from pathlib import Path

import pytest

from spectral_ft.processes import is_first
from spectral_ft.stages.mirroring import show_plan, show_results
from spectral_ft.storage import read_json
from spectral_ft.tracking.tracker import Both, Silent
from spectral_ft.types import RunResult
from tests.conftest import QUICK

from .test_allocation import made

PNG = b"\x89PNG"


class Seen(Silent):
    """Keeps what it is shown."""

    def __init__(self):
        self.pictures, self.tables, self.values = [], {}, {}

    def picture(self, path):
        assert path.read_bytes().startswith(PNG)
        self.pictures.append(path)

    def table(self, name, rows):
        self.tables[name] = rows

    def summarise(self, values):
        self.values.update(values)


def shown(folder, *options):
    seen, given = Seen(), made(*options)
    show_plan(given.experiment, given.report, given.plan, folder=folder, tracker=Both(Silent(), seen))
    return seen, given.plan


def test_a_plan_by_spectra_is_shown_with_the_column_that_it_reads(tmp_path):
    seen, plan = shown(tmp_path, "method=lora", "rank_policy=snr_top")
    assert [path.relative_to(tmp_path / "figures").name for path in seen.pictures] == ["heat-map-snr.png", "plan.png"]
    rows = {row["name"]: row["rank"] for row in seen.tables["plan"]}
    assert rows == {allocation.name: allocation.rank for allocation in plan.allocations}
    assert len(rows) == 28 and 0 in rows.values()


def test_a_plan_by_shapes_has_no_spectra_to_show(tmp_path):
    seen, _ = shown(tmp_path, "method=lora", "rank_policy=uniform")
    assert [path.name for path in seen.pictures] == ["plan.png"]


def test_without_figures_the_table_alone_is_shown(tmp_path):
    seen, _ = shown(tmp_path, "method=lora", "rank_policy=snr_top", "figures=false")
    assert (seen.pictures, list(seen.tables), list(tmp_path.iterdir())) == ([], ["plan"], [])


def test_pictures_are_drawn_once(tmp_path):
    seen, _ = shown(tmp_path, "method=lora", "rank_policy=snr_top")
    before = [path.stat().st_mtime_ns for path in seen.pictures]
    again, _ = shown(tmp_path, "method=lora", "rank_policy=snr_top")
    assert [path.stat().st_mtime_ns for path in again.pictures] == before


def test_the_other_processes_show_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert not is_first()
    seen, _ = shown(tmp_path, "method=lora", "rank_policy=snr_top")
    assert (seen.pictures, seen.tables) == ([], {})


def test_results_are_the_scores_of_the_record_and_what_they_cost(finished, tmp_path):
    result, seen = read_json(finished / "result.json", RunResult), Seen()
    given = made("method=lora", "rank_policy=snr_top")
    show_results(result.scores, None, given.plan, folder=tmp_path, tracker=seen)
    assert [row["value"] for row in seen.tables["scores"]] == [score.value for score in result.scores]
    assert seen.values["trainable_parameters"] == given.plan.trainable_parameters
    one = result.scores[0]
    assert seen.values[f"{one.stage}/{one.task}/{one.metric}/{one.extractor}"] == one.value
    assert "seconds" not in seen.values


@pytest.mark.parametrize("options", [("rank_policy=snr_top",), ("method=none",)])
def test_a_run_shows_all_of_it_in_order(command, tmp_path, monkeypatch, options):
    told = []

    class Told(Silent):
        def log(self, row):
            told.append("row")

        def picture(self, path):
            told.append(path.stem)

        def table(self, name, rows):
            told.append(name)

        def adapter(self, folder):
            told.append(folder.relative_to(tmp_path).as_posix())

        def summarise(self, values):
            told.append("summary")

        def close(self):
            told.append("end")

    monkeypatch.setattr("spectral_ft.tracking.Tracking.open", lambda *_, **__: Told())
    assert (
        command(f"hydra.run.dir={tmp_path / 'run'}", *QUICK, "benchmark.limit=2", "drift=default", *options).code == 0
    )
    order = list(dict.fromkeys(told))
    if options == ("method=none",):
        assert order == ["plan", "scores", "summary", "end"]
    else:
        assert order == ["plan", "heat-map-snr", "row", "run/adapter", "scores", "drift", "summary", "end"]
    assert Path(tmp_path / "run" / "figures" / "plan.png").exists()
