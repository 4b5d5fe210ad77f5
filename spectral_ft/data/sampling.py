"""The order in which training reads examples: batches of like lengths, in an order that a resumed run has again.

A padded micro-batch costs its longest example times its rows. So an epoch's random permutation is cut into
mega-batches of at most 50 batches, each mega-batch is sorted by length and cut into batches, and the batches of a
mega-batch are shuffled. Within a batch the longest comes first, so that the micro-batches of a step, which are
consecutive slices of it, hold examples of like lengths too. The longest example of all is in the very first batch:
what does not fit into memory is known at once. (Examples laid end to end have their largest sum nearby, not surely
there.)

Source: the rule of transformers' `LengthGroupedSampler`.
Departs from it: the permutation is a function of seed and epoch alone; the batches of a mega-batch are shuffled, since
sorted ones would show the optimizer a sawtooth of lengths; and the batch that is not full holds any lengths, not the
shortest.
"""

from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from spectral_ft.types import FILL

MEGA_BATCH = 50
"""Batches that are sorted together, at most: more leaves less to chance and saves little padding."""
MEGA_BATCHES = 4
"""Of a small data set, at least: one alone would have the same neighbours in every epoch."""

T = TypeVar("T")


class RandomOrder(torch.utils.data.Sampler[int]):
    """Indices of examples in a random order, the one of accelerate's `SeedableRandomSampler`.

    Args:
        count: Of the examples.
        seed: Of the order.
    """

    def __init__(self, count: int, *, seed: int) -> None:
        self._count = count
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order that the next iteration gives.

        Args:
            epoch: From 0.
        """
        self._epoch = epoch

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        yield from _permutation(self._count, torch.Generator().manual_seed(self._seed + self._epoch))


class Filled(torch.utils.data.Sampler[int]):
    """An order whose last batch is filled up, so that several processes divide it evenly and learn nothing twice.

    Args:
        order: Of an epoch.
        multiple: Of how many its length shall be one.
    """

    def __init__(self, order: "RandomOrder | LengthGroupedSampler", *, multiple: int) -> None:
        self._order = order
        self._multiple = multiple

    def set_epoch(self, epoch: int) -> None:
        """Choose the order that the next iteration gives.

        Args:
            epoch: From 0.
        """
        self._order.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self._order) // self._multiple) * self._multiple

    def __iter__(self) -> Iterator[int]:
        yield from self._order
        yield from [FILL] * (len(self) - len(self._order))


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """Indices of examples, those of a batch of like lengths.

    Args:
        lengths: Tokens of each example.
        batch_size: Examples of an optimizer step.
        seed: Of the order; not negative.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int) -> None:
        self._lengths = lengths
        self._batch_size = batch_size
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order that the next iteration gives.

        Args:
            epoch: From 0.
        """
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        # Hashed together: with their sum, seed 0 would have in epoch 1 what seed 1 has in epoch 0.
        (state,) = np.random.SeedSequence([self._seed, self._epoch]).generate_state(1)
        chance = torch.Generator().manual_seed(int(state))
        order = _permutation(len(self), chance)
        longest = max(range(len(self)), key=lambda place: self._lengths[order[place]])
        order[0], order[longest] = order[longest], order[0]
        mega = self._batch_size * max(1, min(MEGA_BATCH, len(self) // (self._batch_size * MEGA_BATCHES)))
        for start in range(0, len(order), mega):
            yield from self._batches(order[start : start + mega], chance, first=start == 0)

    def _batches(self, indices: list[int], chance: torch.Generator, *, first: bool) -> Iterator[int]:
        # One mega-batch. A batch that is not full is the last of the epoch, or every later one would be two halves.
        size = self._batch_size
        by_length = sorted(indices, key=lambda index: -self._lengths[index])
        over = len(by_length) % size
        start = int(torch.randint(len(by_length) - over + 1, (), generator=chance))
        partial, by_length = by_length[start : start + over], by_length[:start] + by_length[start + over :]
        batches = [by_length[start : start + size] for start in range(0, len(by_length), size)]
        kept = batches[:1] if first else []
        rest = batches[len(kept) :]
        for batch in [*kept, *(rest[place] for place in _permutation(len(rest), chance)), partial]:
            yield from batch


def _permutation(count: int, chance: torch.Generator) -> list[int]:
    return torch.randperm(count, generator=chance).tolist()
