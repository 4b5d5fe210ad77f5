"""An epoch over texts of unequal lengths: batches of like lengths against random ones."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from measure import timed
from tqdm import tqdm

SCRIPT = Path(__file__).parents[1] / "train.py"
BATCH, MICRO = 16, 4
"""Examples of an optimizer step, and at a time."""
MAX_LENGTH = 512
"""Tokens."""
TRAINED = 320
"""Examples of the epochs that are timed; padding is counted over all."""


class Epoch(NamedTuple):
    """Of one order of the examples."""

    cpu: list[float]
    """Seconds of each epoch."""
    wall: list[float]
    padded: int
    """Tokens of the micro-batches of an epoch over all examples, padding included."""
    tokens: int
    """Without it."""


def epochs(data: Path, *, rounds: int) -> dict[str, Epoch]:
    """Train one epoch of each order, by turns, each in a process of its own.

    Args:
        data: Folder of GSM8K.
        rounds: Epochs of each.

    Returns:
        `grouped` and `random`.
    """
    costs: dict[str, list[dict[str, float]]] = {"grouped": [], "random": []}
    for _ in tqdm(range(rounds), desc="epochs", leave=False):
        for order, found in costs.items():
            found.append(_in_process(order, data))
    lengths = [len(row["input_ids"]) for row in examples(data, limit=None)]
    return {
        order: Epoch(
            [cost["cpu"] for cost in found],
            [cost["wall"] for cost in found],
            padded_tokens([lengths[index] for index in sampler(order, lengths)]),
            sum(lengths),
        )
        for order, found in costs.items()
    }


def _in_process(order: str, data: Path) -> dict[str, float]:
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    found = {"CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(SCRIPT.parents[1])}
    command = [sys.executable, str(SCRIPT), "--epoch", order, "--data", str(data)]
    done = subprocess.run(command, env=os.environ | threads | found, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the epoch of {order} batches failed: {done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def padded_tokens(lengths: list[int]) -> int:
    """Tokens of the micro-batches that examples are cut into.

    Args:
        lengths: Of the examples, in their order.

    Returns:
        Number, padding included.
    """
    batches = [lengths[start : start + MICRO] for start in range(0, len(lengths), MICRO)]
    return sum(max(batch) * len(batch) for batch in batches)


def examples(data: Path, *, limit: int | None) -> list[dict[str, Any]]:
    """GSM8K by the embedded tokenizer, loss on the answer.

    Args:
        data: Folder of `train.jsonl`.
        limit: Take only the first so many.

    Returns:
        Rows of input_ids and labels.
    """
    from spectral_ft.configuration import EMBEDDED_MODEL
    from spectral_ft.data.dataset import Example
    from spectral_ft.data.tokenised import tokenise
    from spectral_ft.models.loading import load_tokenizer

    found = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()[:limit]]
    return tokenise(
        [Example(row["question"], f"\n{row['answer']}") for row in found],
        load_tokenizer(EMBEDDED_MODEL, trust_remote_code=False),
        max_length=MAX_LENGTH,
        too_long="truncate",
        train_on_inputs=False,
    ).rows


def sampler(order: str, lengths: list[int]) -> Any:
    """The order in which examples are read.

    Args:
        order: `grouped` or `random`.
        lengths: Of the examples, in tokens.

    Returns:
        Of torch's samplers.
    """
    import torch

    from spectral_ft.data.sampling import LengthGroupedSampler

    if order == "grouped":
        return LengthGroupedSampler(lengths, batch_size=BATCH, seed=0)
    return torch.utils.data.RandomSampler(lengths, generator=torch.Generator().manual_seed(0))


def one_epoch(order: str, data: Path) -> None:
    """Train LoRA on the embedded model, and print what the training took.

    Args:
        order: `grouped` or `random`.
        data: Folder of GSM8K.
    """
    import torch
    from peft import LoraConfig, TaskType, get_peft_model
    from transformers import Trainer, TrainingArguments

    from spectral_ft.configuration import EMBEDDED_MODEL
    from spectral_ft.data.collation import padded_batch
    from spectral_ft.models.loading import load_model
    from spectral_ft.models.quantization import Unquantized

    torch.set_num_threads(1)
    rows = examples(data, limit=TRAINED)
    base = load_model(EMBEDDED_MODEL, quantization=Unquantized(), dtype="float32", trust_remote_code=False)
    model = get_peft_model(base, LoraConfig(task_type=TaskType.CAUSAL_LM, r=8, target_modules="all-linear"))

    class Ordered(Trainer):
        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            del train_dataset
            return sampler(order, [len(row["input_ids"]) for row in rows])

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            num_train_epochs=1,
            per_device_train_batch_size=MICRO,
            gradient_accumulation_steps=BATCH // MICRO,
            save_strategy="no",
            remove_unused_columns=False,
            label_names=["labels"],
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Ordered(
            model=model,
            args=arguments,
            train_dataset=rows,  # type: ignore[arg-type]  # sized and indexable is enough
            data_collator=padded_batch("causal_lm", 0),
        )
        timed(trainer.train)
