"""What a run prints when it is done."""

from pathlib import Path

from rich.table import Table

from spectral_ft.reporting.score_table import counting_stage, leading, score_table
from spectral_ft.reporting.terminal import as_text
from spectral_ft.types import RunResult


def objective(result: RunResult) -> float | None:
    """What a sweeper maximises.

    Args:
        result: A record.

    Returns:
        The mean over tasks of the leading score after training (of the base where nothing was trained), or None where
        nothing was scored.
    """
    counts = counting_stage(result)
    found = [score.value for (_, stage), score in leading(result.scores).items() if stage == counts]
    return sum(found) / len(found) if found else None


def closing_table(result: RunResult, folder: Path) -> str:
    """The leading scores before and after, and what they cost.

    Args:
        result: A record.
        folder: Where it lies.

    Returns:
        Text for a terminal.
    """
    facts = Table.grid(padding=(0, 2))
    if result.plan:
        share = f"{result.plan['trainable_parameters']:,} ({result.plan['trainable_percent']:.2f} % of all)"
        facts.add_row("trainable parameters", share)
        facts.add_row("adapted matrices", f"{result.plan['adapted_matrices']} of {result.plan['matrices']}")
    if result.train:
        rate = f"{result.train['seconds']:.0f} for {result.train['steps']} steps"
        facts.add_row("seconds of training", f"{rate}, {result.train['tokens_per_second']:,.0f} tokens/s")
        facts.add_row("peak memory", f"{result.train['peak_memory_bytes'] / 2**30:.2f} GiB")
        for key, name in (("validation_loss", "loss on held-out examples"), ("general_loss", "loss on general text")):
            if loss := result.train.get(key):
                facts.add_row(name, f"{loss['before']:.3f} before, {loss['after']:.3f} after")
    facts.add_row("seconds in all", f"{result.seconds:.0f}")
    facts.add_row("record", str(folder / "result.json"))
    title = f"run {result.run_id}"
    scores = list(leading(result.scores).values())
    shown = score_table(scores, folder, title=title) if scores else f"{title}: nothing was scored (benchmark=none)\n"
    return shown + as_text(facts)
