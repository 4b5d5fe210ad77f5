"""One contender, in a process of its own: loads, trains in turns, then measures a pass."""

import json
import os

import torch
from transformers import PrinterCallback

from train_parts.gauges import Turns, operations, peak_memory, peak_of_step, saved_activations, settle_memory
from train_parts.jobs import Job, collate
from train_parts.rows import texts
from train_parts.sides import SIDES


def contend(side: str, job: Job, ends: list[int]) -> None:
    """Train in turns, and say on standard output what it costs.

    Args:
        side: Key of `SIDES`.
        job: What all contenders of the row do.
        ends: Numbers of the steps after which it is another's turn; the last is the last step.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no message
    torch.set_num_threads(1)
    load, make = SIDES[side]
    model = load(job)
    data = texts(model.config.vocab_size, job.steps * job.batch)
    for parameter in model.parameters():
        parameter.data.sum()  # what is mapped from a file is resident once it was read
    loaded = settle_memory()
    trainer = make(job, model, data)
    trainer.remove_callback(PrinterCallback)
    turns = Turns(ends, out)
    trainer.add_callback(turns)
    trainer.train()
    resident = peak_memory() - loaded
    batch = collate(data[: job.batch])
    adapted = trainer.model
    adapted.train()
    adapted.zero_grad()
    turns.say(
        losses=[row["loss"] for row in trainer.state.log_history if "loss" in row],
        peak=peak_of_step(adapted, trainer.optimizer, batch),
        resident=resident,
        loaded=loaded,
        saved=saved_activations(adapted, batch),
        gflop=operations(adapted, batch),
    )


def main(message: str) -> None:
    """Start from what the parent wrote.

    Args:
        message: JSON of side, job and ends.
    """
    told = json.loads(message)
    contend(told["side"], Job(**told["job"]), told["ends"])
