"""The order of examples; oracles: what a permutation is, padding counted by hand, a training that was not cut."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, Trainer, TrainingArguments

from spectral_ft.data import rows
from spectral_ft.data.files import read_rows, to_items
from spectral_ft.data.prompts import question
from spectral_ft.data.sampling import MEGA_BATCH, Filled, LengthGroupedSampler, RandomOrder
from spectral_ft.types import FILL
from tests.conftest import EMBEDDED
from tests.oracles import law

LENGTHS = st.lists(st.integers(1, 40), min_size=1, max_size=300)
SIZES = st.integers(1, 20)
SEEDS = st.integers(0, 2**40)


def order(lengths: Sequence[int], *, batch_size: int = 16, seed: int = 0, epoch: int = 0) -> list[int]:
    sampler = LengthGroupedSampler(lengths, batch_size=batch_size, seed=seed)
    sampler.set_epoch(epoch)
    return list(sampler)


def cut(indices: Sequence[int], size: int) -> list[Sequence[int]]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]


def padding(lengths: Sequence[int], indices: Sequence[int], *, batch: int) -> int:
    batches = [[lengths[index] for index in some] for some in cut(indices, batch)]
    return sum(max(some) * len(some) - sum(some) for some in batches)


def drawn(count: int, *, seed: int = 0) -> list[int]:
    return torch.randint(10, 400, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@law
@given(LENGTHS, SIZES, SEEDS, st.integers(0, 9))
def test_every_example_is_read_once_an_epoch(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    assert sorted(order(lengths, batch_size=size, seed=seed, epoch=epoch)) == list(range(len(lengths)))
    assert len(LengthGroupedSampler(lengths, batch_size=size, seed=seed)) == len(lengths)


@law
@given(LENGTHS, SIZES, SEEDS)
def test_seed_and_epoch_alone_decide(lengths: list[int], size: int, seed: int) -> None:
    sampler = LengthGroupedSampler(lengths, batch_size=size, seed=seed)
    sampler.set_epoch(0)
    first = list(sampler)
    before = torch.random.get_rng_state()
    sampler.set_epoch(3)
    third = list(sampler)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(7)
    assert order(lengths, batch_size=size, seed=seed, epoch=3) == third
    sampler.set_epoch(0)
    assert list(sampler) == first


def test_every_seed_and_epoch_has_an_order_of_its_own() -> None:
    lengths = drawn(200)
    orders = {tuple(order(lengths, seed=seed, epoch=epoch)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


@law
@given(LENGTHS, SIZES, SEEDS)
def test_the_longest_of_all_comes_first_and_the_longest_of_a_batch_too(
    lengths: list[int], size: int, seed: int
) -> None:
    found = [lengths[index] for index in order(lengths, batch_size=size, seed=seed)]
    assert found[0] == max(lengths)
    for batch in cut(found, size):
        assert list(batch) == sorted(batch, reverse=True)


@pytest.mark.parametrize("count", [3200, 3207])
def test_neighbours_are_of_like_length_but_batches_do_not_go_from_long_to_short(count: int) -> None:
    lengths = drawn(count)
    for epoch in range(3):
        batches = cut(order(lengths, epoch=epoch), 16)[: count // 16]  # the last is any slice of the lengths, too
        whole = [batch for batch in batches if len(batch) == 16]
        mega = [[lengths[batch[0]] for batch in some] for some in cut(whole, MEGA_BATCH)]
        for longest in mega:
            later_is_longer = sum(after > before for before, after in pairwise(longest))
            assert 0.3 < later_is_longer / (len(longest) - 1) < 0.7
        spread = [lengths[batch[0]] - lengths[batch[-1]] for batch in whole]
        assert max(spread) < 60  # of 390


def test_a_batch_that_is_not_full_is_the_last_and_holds_any_lengths() -> None:
    lengths = drawn(405)
    means = []
    for epoch in range(60):
        tail = [lengths[index] for index in order(lengths, epoch=epoch)][400:]
        means.append(sum(tail) / 5)
    assert max(means) > 300 and min(means) < 100
    assert sum(means) / len(means) == pytest.approx(sum(lengths) / len(lengths), rel=0.2)


@law
@given(st.integers(16, 600), SEEDS)
def test_less_is_padded_than_in_a_random_order(count: int, seed: int) -> None:
    lengths = drawn(count, seed=seed)
    anyhow = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    found = order(lengths, seed=seed)
    assert padding(lengths, found, batch=4) < 0.8 * padding(lengths, anyhow, batch=4)
    if count >= 320:  # with fewer, few batches are sorted together, or none
        assert padding(lengths, found, batch=16) < 0.6 * padding(lengths, anyhow, batch=16)


def test_word_problems_are_hardly_padded(shared_data: Path) -> None:
    items = to_items(read_rows(shared_data / "gsm8k" / "train.jsonl"), rows.gsm8k, source="here")[:2000]
    texts = [f"{question(item.instruction)} {item.completion}" for item in items]
    lengths = [len(ids) for ids in AutoTokenizer.from_pretrained(EMBEDDED)(texts, verbose=False)["input_ids"]]
    anyhow = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0)).tolist()
    assert padding(lengths, anyhow, batch=4) > 0.3 * sum(lengths)
    assert padding(lengths, order(lengths), batch=4) < 0.03 * sum(lengths)


class Counting(torch.nn.Module):
    def __init__(self, seen: list[int]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = seen

    def forward(self, index: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen += index.tolist()
        return {"loss": self.weight * index.sum()}


class Ordered(Trainer):
    def __init__(self, lengths: list[int], **options: Any) -> None:
        super().__init__(**options)
        self.lengths = lengths

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        del train_dataset
        return LengthGroupedSampler(self.lengths, batch_size=8, seed=0)


@pytest.mark.parametrize("step", [6, 8])
def test_a_resumed_training_reads_the_rest_in_the_same_order(tmp_path: Path, step: int) -> None:
    lengths = drawn(30)  # four steps an epoch, the last not full; step 6 is amid the second epoch, 8 at its end

    def trained(resume: Path | None) -> list[int]:
        seen: list[int] = []
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=12,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            save_strategy="steps",
            save_steps=2,
            report_to=[],
            disable_tqdm=True,
            logging_strategy="no",
            remove_unused_columns=False,
            use_cpu=True,
        )
        Ordered(
            lengths,
            model=Counting(seen),
            args=arguments,
            train_dataset=range(len(lengths)),
            data_collator=lambda some: {"index": torch.tensor(some)},
        ).train(resume_from_checkpoint=str(resume) if resume else None)
        return seen

    whole = trained(None)
    assert whole == [index for epoch in range(3) for index in order(lengths, batch_size=8, epoch=epoch)]
    done = {6: 30 + 16, 8: 60}[step]
    assert trained(tmp_path / f"checkpoint-{step}") == whole[done:]


# ---- random, and of several processes


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_the_random_order_is_accelerates_own(epoch: int) -> None:
    theirs = SeedableRandomSampler(range(23), generator=torch.Generator(), data_seed=7)
    theirs.set_epoch(epoch)
    ours = RandomOrder(23, seed=7)
    ours.set_epoch(epoch)
    assert list(ours) == list(theirs) and len(ours) == 23


@given(st.integers(1, 40), st.integers(1, 9))
def test_the_last_batch_is_filled_and_nothing_comes_twice(count: int, multiple: int) -> None:
    filled = Filled(RandomOrder(count, seed=3), multiple=multiple)
    filled.set_epoch(2)
    alone = RandomOrder(count, seed=3)
    alone.set_epoch(2)
    found = list(filled)
    assert len(found) == len(filled) and len(found) % multiple == 0 and len(found) - count < multiple
    assert found[:count] == list(alone)
    assert set(found[count:]) <= {FILL}
