"""What training costs beside the stock recipe: `make bench-train`.

    python bench/train.py [--model FOLDER] [--data FOLDER] [--rows WORDS] [--steps N] [--rounds N] [--quick]
        [--out bench]

Models: one of twelve blocks with random weights, made in a temporary folder, the embedded one, and the one in
--model; without it its rows are left out. --rows takes part of a row's name, several apart by `;`. What is measured
replaces that row in `train.json`; the other rows stay, so that the table can be made in parts. `train_parts/` has the
contenders and the gauges.
"""

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

QUICK = ("twelve lora, top half, checkpointing", "embedded lora, all blocks")


def main() -> None:
    """Measure, write after each row, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="folder of a small real model")
    parser.add_argument("--data", type=Path, help="folder of GSM8K")
    parser.add_argument("--rows", default="", help="part of a row's name; several apart by ;")
    parser.add_argument("--steps", type=int, default=18, help="of the first round, after 3 of warm-up")
    parser.add_argument("--rounds", type=int, default=3, help="pairs of processes; epochs of each order")
    parser.add_argument("--quick", action="store_true", help="two rows of few steps, printed and not kept")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--contend", help=argparse.SUPPRESS)
    parser.add_argument("--epoch", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contend:
        from train_parts.contender import main as contend

        contend(arguments.contend)
    elif arguments.epoch:
        from train_parts.epoch import one_epoch

        one_epoch(arguments.epoch, arguments.data)
    elif arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            failed = measure(QUICK, steps=4, rounds=1, model=None, data=None, out=Path(folder), exact=True)
            print((Path(folder) / "train.md").read_text())
        sys.exit(bool(failed))
    else:
        words = [word.strip() for word in arguments.rows.split(";")]
        failed = measure(
            words,
            steps=arguments.steps,
            rounds=arguments.rounds,
            model=arguments.model,
            data=arguments.data,
            out=arguments.out,
        )
        print((arguments.out / "train.md").read_text())
        sys.exit(bool(failed))


def measure(
    words: "list[str] | tuple[str, ...]",
    *,
    steps: int,
    rounds: int,
    model: Path | None,
    data: Path | None,
    out: Path,
    exact: bool = False,
) -> list[str]:
    """Measure rows, and write the page after each.

    Args:
        words: Each row that has one of them in its label.
        steps: Of each contender in the first round, after the warm-up.
        rounds: Pairs of processes, and epochs of each order of the examples.
        model: Folder of the given model; None leaves its rows out.
        data: Folder of GSM8K; None leaves its row out.
        out: Folder of the page.
        exact: The words are whole labels.

    Returns:
        Labels of the rows that failed.
    """
    from train_parts.duel import WARM_UP, duels
    from train_parts.epoch import epochs
    from train_parts.jobs import Job
    from train_parts.page import EPOCH, load, record, write
    from train_parts.plans import plan_of_row
    from train_parts.rows import BATCH, EMBEDDED_MODEL, all_rows, overrides, twelve_blocks

    sides = ["ours", "stock"]
    if importlib.util.find_spec("trl"):
        sides.append("trl")
    else:
        print("trl is not installed (pip install trl): its column is left out", file=sys.stderr)
    records, failed = load(out / "train.json"), []
    rows = [row for row in all_rows() if any(row.label == word if exact else word in row.label for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        models = {"twelve": Path(folder) / "twelve", "embedded": EMBEDDED_MODEL}
        twelve_blocks(models["twelve"])
        if model is not None:
            models["given"] = model.resolve()
        elif any(row.model == "given" for row in rows):
            print("no --model was given: its rows are left out", file=sys.stderr)
        bar = tqdm([row for row in rows if row.model in models], unit="row")
        for number, row in enumerate(bar):
            bar.set_description(row.label)
            try:
                place = models[row.model]
                plan, lowest = plan_of_row(row, place, Path(folder) / f"plan-{number}")
                job = Job(
                    overrides(row, place), str(plan), str(place), row.checkpointing, WARM_UP + steps, BATCH[row.model]
                )
                alike = [
                    side for side in sides if side != "trl" or not row.nf4
                ]  # TRL trains those adapters in bfloat16
                records[row.label] = record(duels(alike, job, rounds=rounds), lowest_block=lowest)
            except RuntimeError as error:
                failed.append(row.label)
                tqdm.write(f"{row.label} failed: {error}", file=sys.stderr)
            write(out, records)
    if data is not None and any(word in EPOCH for word in words):
        records[EPOCH] = {"sides": {order: one._asdict() for order, one in epochs(data, rounds=rounds).items()}}
        write(out, records)
    return failed


if __name__ == "__main__":
    main()
