"""What was measured, as JSON that grows row by row, and as Markdown."""

import json
import platform
import statistics
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from train_parts.duel import Found
from train_parts.epoch import TRAINED, Epoch
from train_parts.rows import Row, all_rows
from train_parts.verdicts import Verdict, loss_difference, round_ratios, verdicts

EPOCH = "epoch"
GOAL = 0.75
"""CPU time of an epoch of grouped batches over one of random batches."""
INTRODUCTION = """# What training costs beside the stock recipe

{machine}, one BLAS thread, float32; {versions}. `make bench-train` makes this file, row by row.

Ours is the loop that a run trains with, `training.train.train`, whole: log, counts and checks of every step are in
its times. Stock is PEFT and `transformers.Trainer` as their documentation sets them up:
`prepare_model_for_kbit_training` for NF4, `TrainingArguments(activation_checkpointing=...)`. Both train the same
model on the same {tokens}-token sequences in the same order from the same adapters, which is checked; what PEFT has no
option for (shared factors, tiers of learning rates) the stock side is given by hand. Bottleneck adapters are no row,
since PEFT has none, nor is EVA, which is LoRA from another start. Each is a process of its own, and they take turns, in
the one order and in the other: 3 steps of warm-up each, then step by step.

- **CPU**: seconds a step, median; ours over stock is of each round the median over pairs of neighbouring steps, of the
  rounds the median, with the smallest and the largest. Each round is a new pair of processes, since one process is a
  few per cent faster than another that does the same, by where its memory lies.
- **wall**: the same ratio of the wall time, which other work on the machine moves.
- **GFLOP**: of one forward and backward pass, with what is computed again; products inside the 4-bit kernels of
  bitsandbytes are not counted.
- **saved**: MiB of different storages that a forward pass leaves for backward, parameters apart.
- **peak**: MiB that training holds at most: adapters, optimizer state, and what torch allocates in a step, followed
  from allocation to allocation. Equal runs have equal peaks, so the bar is set on it.
- **RSS**: MiB of the process's largest resident set in training, above its resident set with the model loaded and
  read. It has what the C allocator keeps and code that is read from disk late: equal runs differ by several MiB.
- **loss**: the largest difference over all {steps} steps.
- **verdict**: `CPU 1.01 / 1.02` is measured and bar; bold where it is missed.

What limits it. Where a plan reaches the lowest block no product can be left out, and a CPU ratio off 1 is, as far as
could be told, the spread of processes: five rounds of one such row gave 0.94, 0.97, 1.02, 1.04 and 1.08, so that one
round alone cannot tell 1.02 from 1, nor 0.73 from 0.75. Without checkpointing autograd stops at the lowest adapter on
both sides. What is gained everywhere is the loss (`training.fused_loss`): of a frozen head's logits and of the frozen
norm before it nothing is kept but one gradient of the hidden states, so that of 32.7 MiB which SmolLM2-135M saves with
recomputation 24 are gone. Where a model's last norm or its head is trained, as by `full` and `ln_tuning` here, its own
loss stays. Where
the two ends of a ratio's range are equal there was one round.
"""


def load(path: Path) -> dict[str, Any]:
    """What earlier calls measured.

    Args:
        path: Of the JSON.

    Returns:
        Label to a row's record; empty without a file.
    """
    return dict(json.loads(path.read_text())) if path.exists() else {}


def record(found: dict[str, Found], *, lowest_block: int) -> dict[str, Any]:
    """A row for the file.

    Args:
        found: Side to its cost.
        lowest_block: That has an adapter.

    Returns:
        Plain values.
    """
    sides = {side: one._asdict() for side, one in found.items()}
    return {"date": str(date.today()), "lowest_block": lowest_block, "sides": sides}


def write(folder: Path, records: dict[str, Any]) -> None:
    """Write `train.json` and `train.md`.

    Args:
        folder: Where.
        records: Label to a row's record.
    """
    (folder / "train.json").write_text(json.dumps(records, indent=1) + "\n")
    (folder / "train.md").write_text(markdown(records))


def markdown(records: dict[str, Any]) -> str:
    """The page.

    Args:
        records: Label to a row's record.

    Returns:
        Markdown.
    """
    rows = [(row, records[row.label]) for row in all_rows() if row.label in records]
    asked = {row.label: verdicts(row, _found(one), lowest_block=one["lowest_block"]) for row, one in rows}
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft", "bitsandbytes"))
    steps = sorted({len(one["sides"]["ours"]["losses"]) for _, one in rows})
    lines = [
        INTRODUCTION.format(
            machine=f"{date.today()}, {platform.machine()}",
            versions=packages,
            tokens=128,
            steps=" or ".join(map(str, steps)),
        ),
        *_missed(asked),
        "| plan | CPU s, ours / stock | ratio (rounds) | wall | GFLOP | saved | peak | RSS | loss | verdict |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_line(row, one, asked[row.label]) for row, one in rows),
        "",
        *[f"- {row.label}: {one['remark']}" for row, one in rows if "remark" in one],
        "",
        *_beside_trl(rows),
        *_epoch(records.get(EPOCH)),
    ]
    return "\n".join(lines)


def _found(one: dict[str, Any]) -> dict[str, Found]:
    return {side: Found(**values) for side, values in one["sides"].items()}


def _missed(asked: dict[str, list[Verdict]]) -> list[str]:
    count = sum(len(each) for each in asked.values())
    missed = [f"- {label}: {_said(one)}" for label, each in asked.items() for one in each if not one.holds]
    return [f"{count - len(missed)} of {count} bars hold; {len(missed) or 'none'} missed:", "", *missed, ""]


def _said(one: Verdict) -> str:
    measured = f"{one.measured:.1e}" if one.what == "loss" else f"{one.measured:.2f}"
    return f"{one.what} {measured} / {one.bar:g}"


def _line(row: Row, one: dict[str, Any], asked: list[Verdict]) -> str:
    found = _found(one)
    ours, stock = found["ours"], found["stock"]
    ratios = round_ratios(ours.cpu, stock.cpu)
    verdict = ", ".join(_said(each) if each.holds else f"**{_said(each)}**" for each in asked if each.what != "loss")
    loss = next(each for each in asked if each.what == "loss")
    cells = [
        row.label,
        f"{_middle(ours.cpu):.2f} / {_middle(stock.cpu):.2f}",
        f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f})",
        f"{statistics.median(round_ratios(ours.wall, stock.wall)):.2f}",
        f"{ours.gflop:.1f} / {stock.gflop:.1f}",
        f"{ours.saved:.1f} / {stock.saved:.1f}",
        f"{ours.peak:.1f} / {stock.peak:.1f}",
        f"{ours.resident:.0f} / {stock.resident:.0f}",
        f"{loss.measured:.1e}" if loss.holds else f"**{loss.measured:.1e}**",
        verdict or "-",
    ]
    return f"| {' | '.join(cells)} |"


def _middle(rounds: list[list[float]]) -> float:
    return statistics.median(seconds for one in rounds for seconds in one)


def _beside_trl(rows: list[tuple[Row, dict[str, Any]]]) -> list[str]:
    lines = []
    for row, one in rows:
        found = _found(one)
        if "trl" in found:
            ours, trl = found["ours"], found["trl"]
            cpu = statistics.median(round_ratios(ours.cpu, trl.cpu))
            loss = loss_difference(ours.losses, trl.losses)
            lines.append(f"| {row.label} | {cpu:.2f} | {ours.peak / trl.peak:.2f} | {loss:.1e} |")
    if not lines:
        return ["TRL is not installed: its SFTTrainer was left out.", ""]
    head = [
        "## Beside TRL's SFTTrainer",
        "",
        "On bases in 4 bit it trains the adapters in bfloat16: no equal settings.",
    ]
    head += ["", "| plan | CPU, ours over TRL | peak, ours over TRL | loss |"]
    return [*head, "|---|---|---|---|", *lines, ""]


def _epoch(one: dict[str, Any] | None) -> list[str]:
    if one is None:
        return []
    grouped, unordered = (Epoch(**one["sides"][order]) for order in ("grouped", "random"))
    found = sorted(one / other for one, other in zip(grouped.cpu, unordered.cpu, strict=True))
    middle = statistics.median(found)
    return [
        "## Batches of like lengths",
        "",
        f"An epoch over {TRAINED} examples of GSM8K on the embedded model (its own tokenizer, batch 16 in micro-batches"
        f" of 4): {statistics.median(grouped.cpu):.1f} CPU s with batches of like lengths,"
        f" {statistics.median(unordered.cpu):.1f} with random ones, ratio {middle:.2f}"
        f" ({found[0]:.2f}-{found[-1]:.2f}); the goal is {GOAL}, {'held' if middle <= GOAL else '**missed**'}."
        f" Over all of its training set {grouped.padded / 1e6:.2f} M tokens with padding against"
        f" {unordered.padded / 1e6:.2f} M, {grouped.tokens / 1e6:.2f} M without.",
        "",
    ]
