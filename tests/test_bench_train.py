import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.utils.checkpoint import checkpoint

sys.path.append(str(Path(__file__).parents[1] / "bench"))

from train_parts.epoch import padded_tokens, sampler
from train_parts.gauges import digest, operations, peak_of_step, saved_activations
from train_parts.rows import PARTS, Row, all_rows
from train_parts.verdicts import Verdict, loss_difference, round_ratios

MIB = 2**20
SIDE = 256
ROWS = 1024


class Stack(torch.nn.Module):
    """Two linear maps, with or without recomputation; saves its input and what is between them."""

    def __init__(self, *, frozen: bool = False, recompute: bool = False) -> None:
        super().__init__()
        self.maps = torch.nn.ModuleList(torch.nn.Linear(SIDE, SIDE, bias=False) for _ in range(2))
        self.maps[0].requires_grad_(not frozen)
        self.recompute = recompute

    def forward(self, x):
        for each in self.maps:
            x = checkpoint(torch.nn.Sequential(each, each), x, use_reentrant=False) if self.recompute else each(x)
        return SimpleNamespace(loss=x.sum())


@pytest.fixture
def batch():
    return {"x": torch.randn(ROWS, SIDE)}


@pytest.mark.parametrize("frozen, storages", [(False, 2), (True, 1)])
def test_saved_activations_are_the_inputs_of_what_is_trained(batch, frozen, storages):
    # A frozen map whose input needs no gradient saves nothing; weights are no activations.
    assert saved_activations(Stack(frozen=frozen), batch) == pytest.approx(storages * ROWS * SIDE * 4 / MIB, rel=1e-3)


@pytest.mark.parametrize("frozen, storages", [(False, 2), (True, 1)])
def test_a_recomputed_block_counts_with_its_input_alone_and_a_frozen_one_not_at_all(batch, frozen, storages):
    found = saved_activations(Stack(frozen=frozen, recompute=True), batch)
    assert found == pytest.approx(storages * ROWS * SIDE * 4 / MIB, rel=1e-3)


@pytest.mark.parametrize("frozen, products", [(False, 2 + 1 + 2), (True, 2 + 1)])
def test_operations_are_the_products_of_both_passes(batch, frozen, products):
    # Forward one a map; backward one a trained weight, and one from the second map into the first where that trains.
    assert operations(Stack(frozen=frozen), batch) == pytest.approx(products * 2 * ROWS * SIDE**2 / 1e9)


def test_the_peak_of_a_step_has_what_is_trained_its_state_and_all_that_is_alive_at_once(batch):
    model = Stack()
    optimizer = torch.optim.AdamW(model.parameters(), foreach=False)
    model(**batch).loss.backward()
    optimizer.step()
    model.zero_grad()
    matrix, activation = SIDE**2 * 4 / MIB, ROWS * SIDE * 4 / MIB
    held = 3 * 2 * matrix  # weights and two moments
    # Two outputs are there when backward begins; then at most as many gradients of activations, and those of weights.
    found = peak_of_step(model, optimizer, batch)
    assert held + 2 * activation < found < held + 2 * matrix + 4 * activation
    assert peak_of_step(model, optimizer, {"x": batch["x"][:1]}) < found - activation


def test_a_digest_sees_trained_values_and_their_names_alone():
    model = Stack(frozen=True)
    before = digest(model)
    model.maps[0].weight.data += 1
    assert digest(model) == before
    model.maps[1].weight.data += 1
    assert digest(model) != before


def test_ratios_are_of_neighbouring_steps_in_each_round():
    # The machine is slower from step to step; sums or medians taken apart would see it.
    ours, theirs = [[1.0, 10.0, 300.0], [3.0]], [[2.0, 20.0, 300.0], [1.0]]
    assert round_ratios(ours, theirs) == [0.5, 3.0]


def test_the_largest_difference_of_losses_may_be_on_either_side():
    assert loss_difference([1.0, 2.0, 3.0], [1.0, 2.5, 2.9]) == 0.5


@pytest.mark.parametrize(
    "what, measured, bar, holds",
    [
        ("CPU", 1.0249, 1.02, True),
        ("CPU", 1.026, 1.02, False),
        ("loss", 9e-6, 1e-5, True),
        ("loss", 1.1e-5, 1e-5, False),
    ],
)
def test_a_ratio_is_compared_as_it_is_printed_and_a_loss_as_it_is(what, measured, bar, holds):
    assert Verdict(what, measured, bar).holds is holds


def test_every_row_has_a_name_of_its_own():
    labels = [row.label for row in all_rows()]
    assert len(set(labels)) == len(labels)
    twelve = {
        Row("twelve", "lora", part, again, nf4) for part in PARTS for again in (True, False) for nf4 in (True, False)
    }
    assert twelve <= set(all_rows())


def test_padding_counts_to_the_longest_of_each_micro_batch():
    assert padded_tokens([5, 1, 2, 3, 7, 6]) == 4 * 5 + 2 * 7


def test_both_orders_read_every_example_and_the_grouped_one_pads_less():
    lengths = [1 + 37 * number % 101 for number in range(400)]
    grouped, unordered = (list(sampler(order, lengths)) for order in ("grouped", "random"))
    assert sorted(grouped) == sorted(unordered) == list(range(400))
    pads = [padded_tokens([lengths[index] for index in order]) for order in (grouped, unordered)]
    assert pads[0] < 0.75 * pads[1]
