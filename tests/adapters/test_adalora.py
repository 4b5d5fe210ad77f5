"""AdaLoRA's adapters and allocator; oracles: the schedule's own numbers, an uninterrupted run, PEFT's saved form."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from spectral_ft.adapters.adalora import allocator_state, ranks
from spectral_ft.adapters.opening import open_adapter
from spectral_ft.methods.seam import Adapted
from spectral_ft.training.trained_state import load_trained, save_trained
from tests.methods.small_bases import adalora, adapt, batch_for, even, frozen, logits, seen, trained

STEPS, INTERVAL = 40, 2
METHOD = adalora(factor=2.0, tinit=0.1, tfinal=0.3, interval=INTERVAL)
BEGINS, ENDS = 4, 28
"""Ranks go after step 4, and none after step 28."""
TARGET, START = 2, 4
CUTS = {"before the first decision": 3, "between two": 17, "after the last": 33}
SAVED = (2, 18, STEPS)
"""Steps after which the adapter is saved: at a decision, or masked values have come back a little."""
BASE = seen(frozen("llama"))
ADAPTED = [a.name for a in even(BASE.matrices) if a.rank]
SIDES = {m.name: sum(m.sides) for m in BASE.matrices}


class Run(NamedTuple):
    """An uninterrupted training, and what it left on its way."""

    adapted: Adapted
    folder: Path
    ranks: dict[int, dict[str, int]]
    kept: dict[int, dict[str, list[bool]]]
    logits: dict[int, torch.Tensor]
    patterns: dict[int, dict[str, list[bool]]]


def fresh() -> tuple[Adapted, torch.optim.Optimizer]:
    adapted = adapt("adalora", frozen("llama"), BASE, method=METHOD, steps=STEPS)
    return adapted, torch.optim.AdamW(trained(adapted.model).values(), lr=3e-2)


def take(adapted: Adapted, optimizer: torch.optim.Optimizer, step: int) -> None:
    """As the training loop does: the allocator acts after the optimizer's step, while gradients are there."""
    adapted.model.train()
    adapted.model(**batch_for(adapted.model, seed=step)).loss.backward()
    optimizer.step()
    adapted.after_step(step)
    optimizer.zero_grad()


def peft(adapted: Adapted) -> Any:
    return adapted.model


def kept(adapted: Adapted) -> dict[str, list[bool]]:
    """Which singular values are not masked."""
    return {name: p.flatten().ne(0).tolist() for name, p in adapted.model.named_parameters() if ".lora_E." in name}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("adalora")
    adapted, optimizer = fresh()
    found = Run(adapted, folder, {}, {}, {}, {})
    for step in range(1, STEPS + 1):
        take(adapted, optimizer, step)
        found.ranks[step], found.kept[step] = ranks(peft(adapted)), kept(adapted)
        if step in CUTS.values():
            save_trained(adapted.model, adapted.state(), folder / f"cut-{step}")
            torch.save(optimizer.state_dict(), folder / f"cut-{step}" / "optimizer.pt")
        if step in SAVED:
            found.logits[step] = logits(adapted.model.eval())
            found.patterns[step] = allocator_state(peft(adapted))["rank_pattern"] or {}
            adapted.save(folder / f"saved-{step}")
    return found


def test_the_schedule_moves_the_ranks_to_their_target_in_the_mean(run: Run) -> None:
    count, totals = len(ADAPTED), {step: sum(found.values()) for step, found in run.ranks.items()}
    assert all(totals[step] == START * count for step in range(1, BEGINS + 1))
    for step in range(BEGINS + INTERVAL, ENDS + 1, INTERVAL):  # between decisions what was masked may come back
        left = 1 - (step - BEGINS) / (ENDS - BEGINS)
        assert totals[step] == int((START - TARGET) * count * left**3 + TARGET * count), step
    assert all(totals[step] == TARGET * count for step in range(ENDS, STEPS + 1))


def test_some_adapters_lose_more_ranks_than_others(run: Run) -> None:
    last = run.ranks[STEPS]
    assert sorted(last) == sorted(ADAPTED)
    assert min(last.values()) < TARGET < max(last.values()) <= START
    assert all(run.ranks[step] == last for step in range(ENDS, STEPS))


def test_without_the_schedule_no_rank_moves() -> None:
    adapted, optimizer = fresh()
    for step in range(1, 11):
        take(adapted._replace(after_step=lambda step: None), optimizer, step)
    assert set(ranks(peft(adapted)).values()) == {START}


def test_the_start_changes_no_logit() -> None:
    assert torch.equal(logits(fresh()[0].model.eval()), logits(frozen("llama")))


def resumed(run: Run, cut: int) -> tuple[Adapted, torch.optim.Optimizer, dict[str, Any]]:
    """A fresh model with the weights of a checkpoint, and the allocator's memory, read with `weights_only=True`."""
    adapted, optimizer = fresh()
    state = load_trained(adapted.model, run.folder / f"cut-{cut}")
    optimizer.load_state_dict(torch.load(run.folder / f"cut-{cut}" / "optimizer.pt", weights_only=True))
    return adapted, optimizer, state


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_what_the_allocator_remembers_survives_a_checkpoint(run: Run, cut: int) -> None:
    """And saving an adapter in mid-training, as the run does, changes nothing of what follows."""
    adapted, optimizer, state = resumed(run, cut)
    adapted.restore(state)
    for step in range(cut + 1, STEPS + 1):
        take(adapted, optimizer, step)
        assert kept(adapted) == run.kept[step], step
    assert torch.equal(logits(adapted.model.eval()), run.logits[STEPS])
    assert sum(map(sum, kept(adapted).values())) == TARGET * len(ADAPTED)


def test_an_allocator_without_its_memory_decides_otherwise(run: Run) -> None:
    """So that the test above can fail."""
    adapted, optimizer, _ = resumed(run, CUTS["between two"])
    take(adapted, optimizer, 18)
    assert kept(adapted) != run.kept[18]


def test_the_memory_is_the_importance_of_each_entry() -> None:
    """|w dL/dw| and what it deviates from its mean, both smoothed by 0.85 from zero (arXiv:2303.10512, section 3.2)."""
    adapted, optimizer = fresh()
    assert allocator_state(peft(adapted)) == {"ipt": {}, "exp_avg_ipt": {}, "exp_avg_unc": {}, "rank_pattern": None}
    for step in (1, 2):
        take(adapted, optimizer, step)
    adapted.model(**batch_for(adapted.model, seed=3)).loss.backward()
    optimizer.step()
    before = allocator_state(peft(adapted))
    adapted.after_step(3)
    after, parameters = allocator_state(peft(adapted)), dict(peft(adapted).base_model.model.named_parameters())
    assert len(after["ipt"]) == 3 * len(ADAPTED)
    for name, now in after["ipt"].items():
        importance = (parameters[name] * parameters[name].grad).abs()
        mean = 0.85 * before["exp_avg_ipt"][name] + 0.15 * importance
        spread = 0.85 * before["exp_avg_unc"][name] + 0.15 * (importance - mean).abs()
        torch.testing.assert_close(now, importance)
        torch.testing.assert_close(after["exp_avg_ipt"][name], mean)
        torch.testing.assert_close(after["exp_avg_unc"][name], spread)


@pytest.mark.parametrize("step", SAVED)
def test_the_saved_form_opens_with_the_same_logits_and_only_what_is_left(run: Run, step: int) -> None:
    folder = run.folder / f"saved-{step}"
    for opened in (PeftModel.from_pretrained(frozen("llama"), str(folder)), open_adapter(frozen("llama"), folder)):
        torch.testing.assert_close(logits(opened.eval()), run.logits[step], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(run.logits[step], logits(frozen("llama")), atol=1e-4)
    left = {name.split(".lora_E")[0]: sum(mask) for name, mask in run.patterns[step].items()}
    assert bool(left) == (step > BEGINS)
    stored = load_file(folder / "adapter_model.safetensors")
    expected = sum(left.get(name, START) * (SIDES[name] + 1) for name in ADAPTED)
    assert sum(tensor.numel() for tensor in stored.values()) == expected


def test_an_adapter_that_lost_all_its_ranks_opens(run: Run, tmp_path: Path) -> None:
    adapted, _, state = resumed(run, CUTS["after the last"])
    name = next(key for key in state["rank_pattern"] if ADAPTED[0] in key)
    state["rank_pattern"][name] = [False] * START
    adapted.restore(state)
    adapted.after_step(34)
    assert ranks(peft(adapted))[ADAPTED[0]] == 0
    expected = logits(adapted.model.eval())
    adapted.save(tmp_path)
    torch.testing.assert_close(logits(open_adapter(frozen("llama"), tmp_path)), expected, rtol=1e-5, atol=1e-6)


def test_an_opened_adapter_has_the_plain_loss(run: Run) -> None:
    """PEFT itself adds the penalty that keeps the factors orthogonal, and looks for the adapter that is trained."""
    opened = open_adapter(frozen("llama"), run.folder / f"saved-{STEPS}")
    batch = batch_for(opened)
    said = opened(**batch)
    expected = torch.nn.functional.cross_entropy(said.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())
    torch.testing.assert_close(said.loss, expected)
