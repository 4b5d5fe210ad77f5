"""Run folders with all that a page shows, and a page taken apart by the standard library's parser."""

import json
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd

from spectral_ft.reporting.page.arms import arms_of
from spectral_ft.reporting.page.writing import write_page
from spectral_ft.reporting.records import planned_jobs, run_folders
from spectral_ft.storage import write_json, write_jsonl, write_report
from spectral_ft.types import AllocationPlan, MatrixAllocation
from tests.oracles import matrix, report
from tests.reporting.runs import write_record

MATRICES = [matrix(f"{block}.{kind}") for block in range(2) for kind in ("q", "down")]
TRAIN = {"seconds": 12.5, "peak_memory_bytes": 3 * 2**29, "peak_device_bytes": None}
OVERLAP = {
    "dataset": "words",
    "rows": 1234,
    "concerned_rows": 3,
    "dropped_rows": 3,
    "threshold": 0.85,
    "tasks": {"aqua": {"items": 4, "exact_items": 1, "near_items": 2, "exact_rows": 1, "near_rows": 2}},
}
VOID = {"meta", "link", "br", "img", "input", "hr"}


def options(arm):
    return {
        "method.name": arm,
        "rank_policy._target_": "spectral_ft.allocation.none.NoPolicy",
        "training.learning_rate": len(arm) / 1000,
    }


def write_full(folder, arm, answers, *, seed=0, responses=None, trainable=100, steps=5, drift=True, ranks=(4, 0, 0, 8)):
    """A finished run with every file; `responses` is (stage, id) to text."""
    plan = AllocationPlan(
        tuple(MatrixAllocation(m.name, rank, 2.0 * rank) for m, rank in zip(MATRICES, ranks, strict=True)),
        trainable,
        trainable,
        9900,
    )
    counts = {
        "adapted_matrices": len(plan.adapted),
        "matrices": 4,
        "trainable_parameters": trainable,
        "adapter_parameters": trainable,
        "base_parameters": 9900,
        "trainable_percent": plan.trainable_percent,
    }
    changes = {
        "plan": counts,
        "train": TRAIN,
        "overlap": OVERLAP,
        "versions": {"torch": "2.9", "peft": f"0.{seed}"},
        "machine": {"device": "cpu"},
        "git_commit": "c0ffee",
        "seconds": 61.0,
    }
    write_record(
        folder, answers, run_id=f"{arm}{seed}", options=options(arm), seed=seed, changes=changes, extractor="strict"
    )
    for file in (folder / "samples").iterdir():
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            said = (responses or {}).get((row["stage"], row["id"]), f"{arm} says {row['id']}")
            row |= {"response": said, "extracted": "7", "gold": f"gold {row['id']}"}
        write_jsonl(file, rows)
    write_json(folder / "plan.json", plan)
    logged = [{"step": n, "loss": 3.0 / n, "grad_norm": 1.0, "learning_rate": 1e-3 * n} for n in range(1, steps + 1)]
    write_jsonl(folder / "train.jsonl", logged)
    values = {m.name.removeprefix("model.layers."): 0.5 + n for n, m in enumerate(MATRICES)}
    write_report(folder / "spectrum.parquet", report(values))
    if drift:
        moved(ranks).to_parquet(folder / "drift.parquet")
    return folder


def moved(ranks):
    rows = [
        {
            "name": m.name,
            "type": m.type,
            "block": m.block,
            "relative_frobenius": rank / 10,
            "angle_left": np.pi / 4,
            "mean_angle_left": np.pi / 8,
            "energy": 0.25,
            "intruders_left": 1.0,
        }
        for m, rank in zip(MATRICES, ranks, strict=True)
        if rank
    ]
    return pd.DataFrame(rows)


def runs_in(*folders):
    """Runs whose arm is called by its method alone."""
    return [replace(run, arm=run.arm.removesuffix("/none")) for run in run_folders(folders)]


def arms_in(folder):
    return arms_of(runs_in(folder))


class Page(HTMLParser):
    """A page as a list of elements, with their text; complains of what does not close."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict, list[str]]] = []
        self.open: list[tuple[str, dict, list[str]]] = []
        self.wrong: list[str] = []
        self.feed(text)
        self.close()
        self.wrong += [f"<{tag}> is not closed" for tag, *_ in self.open]

    def handle_starttag(self, tag, attrs):
        element = (tag, dict(attrs), [])
        if len(dict(attrs)) < len(attrs):
            self.wrong.append(f"<{tag}> has an attribute twice")
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        if not self.open or self.open[-1][0] != tag:
            self.wrong.append(f"</{tag}> closes {self.open[-1][0] if self.open else 'nothing'}")
        else:
            self.open.pop()

    def handle_data(self, data):
        for _, _, text in self.open:
            text.append(data)

    def all(self, tag):
        """The elements of a kind: their attributes and their text."""
        return [
            (attributes, " ".join("".join(text).split())) for name, attributes, text in self.elements if name == tag
        ]

    def texts(self, tag):
        return [text for _, text in self.all(tag)]

    def table(self, caption):
        """The rows of a table, by what stands above it: cells."""
        label = next(
            attributes["id"] for attributes, text in self.all("p") if text.startswith(caption) and "id" in attributes
        )
        start = next(
            place
            for place, (tag, attributes, _) in enumerate(self.elements)
            if tag == "table" and attributes["aria-labelledby"] == label
        )
        rows: list[list[str]] = []
        for tag, _, text in self.elements[start + 1 :]:
            if tag == "table":
                break
            if tag == "tr":
                rows.append([])
            elif tag in {"th", "td"}:
                rows[-1].append(" ".join("".join(text).split()))
            elif tag not in {"thead", "tbody"}:
                break
        return rows


def page_of(*folders, at: Path) -> tuple[str, Page]:
    """Write the page of some folders and take it apart."""
    path = write_page(runs_in(*folders), planned_jobs(folders), at / "out" / "page.html")
    text = path.read_text(encoding="utf-8")
    return text, Page(text)
