"""One contender, in a process of its own: loads, trains in turns, then measures a pass."""

import json
import os

import torch

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
    load, train = SIDES[side]
    model = load(job)
    data = texts(model.config.vocab_size, job.steps * job.batch)
    for parameter in model.parameters():
        parameter.data.sum()  # what is mapped from a file is resident once it was read
    loaded = settle_memory()
    turns = Turns(ends, out)
    done = train(job, model, data, turns)
    resident = peak_memory() - loaded
    batch = collate(data[: job.batch])
    done.model.train()
    done.model.zero_grad()
    with done.passing:
        turns.say(
            losses=done.losses,
            peak=peak_of_step(done.model, turns.optimizer, batch),
            resident=resident,
            loaded=loaded,
            saved=saved_activations(done.model, batch),
            gflop=operations(done.model, batch),
        )


def main(message: str) -> None:
    """Start from what the parent wrote.

    Args:
        message: JSON of side, job and ends.
    """
    told = json.loads(message)
    contend(told["side"], Job(**told["job"]), told["ends"])
