"""Plans within budgets on the embedded model; oracles: every tensor counted by its owner, a greedy walk, stock PEFT."""

import json
import tempfile
from collections import Counter, defaultdict
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
from peft import get_peft_model

from spectral_ft.adapters.lora import lora_config
from spectral_ft.allocation.budget import Budget
from spectral_ft.allocation.grouping import Ungrouped
from spectral_ft.allocation.none import NoPolicy
from spectral_ft.errors import PlanError, SpectralFTError
from spectral_ft.experiment import Experiment, PlanParts, all_parts
from spectral_ft.methods.prefix import Prefix
from spectral_ft.methods.seam import BaseModel
from spectral_ft.stages.allocation import plan_allocation, plan_of
from spectral_ft.stages.base import base_model
from spectral_ft.stages.reading import what_plans_read
from spectral_ft.storage import read_json, write_json
from spectral_ft.types import AllocationPlan, Probe, SpectralReport
from tests.models.small_checkpoints import save_bert
from tests.models.tiny_models import model_of
from tests.test_compose import built

UNIFORM = 116_736
"""Parameters of LoRA with rank 8 on all 28 matrices of the embedded model."""
GROUPED = ("rank_policy.top_fraction=1.0", "grouping.snr_threshold=0.5")
PROBED = ("probe.batches=2", "dataset.limit=16", "probe.sketch_dim=8")
LORA_FAMILY = {
    "lora": ("method=lora", "rank_policy=snr_top"),
    "rslora": ("method=rslora", "rank_policy=depth"),
    "dora": ("method=dora", "rank_policy=snr_top", "rank_policy.top_fraction=0.5"),
    "lora_ar": ("method=lora_ar",),
    "spectraqlora": ("method=spectraqlora",),
    "alors": ("method=alors",),
    "sgm by spectrum": ("method=sgm", "grouping.similarity=snr", *GROUPED),
    "sgm by gradient": ("method=sgm", "grouping.threshold_quantile=0.3", *GROUPED, *PROBED),
}
GROUPS = ("sgm by spectrum", "sgm by gradient")


class Made(NamedTuple):
    plan: AllocationPlan
    experiment: Experiment
    base: BaseModel
    report: SpectralReport
    probe: Probe | None


@cache
def made(*options: str) -> Made:
    """A plan as a run makes it; the same options give the same one, made once."""
    experiment = built(*options)
    checkpoint = experiment.model.locate()
    with tempfile.TemporaryDirectory() as folder:
        report, probe = what_plans_read(experiment, checkpoint, parts=all_parts(experiment.parts), folder=Path(folder))
    base = base_model(experiment, checkpoint, tuple(spectrum.matrix for spectrum in report.matrices))
    return Made(plan_of(experiment.parts, base, report, probe), experiment, base, report, probe)


def within(found: Made, budget: Budget) -> Made:
    """The same under a budget."""
    parts = replace(found.experiment.parts, budget=budget)
    return found._replace(plan=plan_of(parts, found.base, found.report, found.probe))


def matched(found: Made, *other: str) -> Made:
    """The same with as many parameters as another plan."""
    return within(found, Budget("match", None, made(*other).experiment.parts))


def ranks(plan: AllocationPlan) -> dict[str, int]:
    return {allocation.name: allocation.rank for allocation in plan.allocations}


def factors(found: Made) -> dict[tuple[str, str], tuple[int, int]]:
    """Every tensor of the adapters, by its owner: rank, and parameters of one rank."""
    sides = {matrix.name: matrix.sides for matrix in found.base.matrices}
    tensors = {}
    for a in found.plan.adapted:
        for factor, size in zip("BA", sides[a.name], strict=True):
            owner = f"group {a.group}" if factor in (a.shares or "") else a.name
            tensors[factor, owner] = (a.rank, size)
    return tensors


def counted(found: Made) -> int:
    """Parameters, a shared factor once."""
    magnitudes = sum(m.sides[0] for m in found.base.matrices if ranks(found.plan)[m.name])
    with_magnitudes = magnitudes if getattr(found.experiment.method, "use_dora", False) else 0
    return sum(rank * size for rank, size in factors(found).values()) + with_magnitudes


def cheapest_rank(found: Made) -> int:
    """Parameters of one rank more where it is cheapest: for one matrix, or for a group as a whole."""
    tensors, costs = factors(found), defaultdict(int)
    for a in found.plan.adapted:
        unit = f"group {a.group}" if a.group else a.name
        for factor in "AB":
            owner = unit if factor in (a.shares or "") else a.name
            if owner == a.name or costs[unit, factor] == 0:
                costs[unit, factor] += tensors[factor, owner][1]
    return min(costs[unit, "A"] + costs[unit, "B"] for unit, _ in costs)


@pytest.mark.parametrize("case", LORA_FAMILY)
def test_a_matched_plan_costs_what_the_other_costs_less_than_a_rank_below(case: str) -> None:
    found = matched(made(*LORA_FAMILY[case]))
    assert counted(found) == found.plan.trainable_parameters == found.plan.adapter_parameters
    assert 0 <= UNIFORM - found.plan.trainable_parameters < cheapest_rank(found)
    assert found.plan.trainable_percent == pytest.approx(100 * counted(found) / (1_803_072 + counted(found)))


@pytest.mark.parametrize("case", LORA_FAMILY)
def test_a_budget_moves_no_choice_and_no_scaling(case: str) -> None:
    free = made(*LORA_FAMILY[case])
    fitted = matched(free)
    assert any(a.rank != b.rank for a, b in zip(free.plan.adapted, fitted.plan.adapted, strict=True))
    for before, after in zip(free.plan.allocations, fitted.plan.allocations, strict=True):
        assert (before.name, before.group, before.shares) == (after.name, after.group, after.shares)
        assert (before.rank > 0) == (after.rank > 0) and before.lr_multiplier == after.lr_multiplier
        if after.rank:
            assert after.lora_alpha / after.rank == pytest.approx(before.lora_alpha / before.rank)
            assert after.rank <= 192


@pytest.mark.parametrize("case", GROUPS)
def test_a_group_has_one_rank_and_its_shared_factors_count_once(case: str) -> None:
    found = matched(made(*LORA_FAMILY[case]))
    sides = {matrix.name: matrix.sides for matrix in found.base.matrices}
    alone = sum(a.rank * sum(sides[a.name]) for a in found.plan.adapted)
    groups = defaultdict(list)
    for a in found.plan.adapted:
        groups[a.group].append(a)
    shared = {group: members for group, members in groups.items() if group}
    assert shared and all(len({(a.rank, a.shares) for a in members}) == 1 for members in shared.values())
    saved = sum(
        (len(members) - 1) * members[0].rank * sides[members[0].name]["BA".index(factor)]
        for members in shared.values()
        for factor in members[0].shares or ""
    )
    assert saved > 0 and found.plan.trainable_parameters == alone - saved
    assert {a.shares for members in shared.values() for a in members} <= {"AB"} if case == GROUPS[0] else {"A", "B"}


@pytest.mark.parametrize("policy", ["uniform", "snr_top"])
def test_adalora_has_the_highest_one_rank_that_fits(policy: str) -> None:
    found = matched(made("method=adalora", f"rank_policy={policy}"))
    (rank,) = {a.rank for a in found.plan.adapted}
    sides = {matrix.name: matrix.sides for matrix in found.base.matrices}
    a_rank = sum(sum(sides[a.name]) + 1 for a in found.plan.adapted)
    assert found.plan.trainable_parameters == rank * a_rank <= UNIFORM < (rank + 1) * a_rank
    assert found.plan.adapter_parameters == round(1.5 * rank) * a_rank


def test_a_match_is_with_the_others_options() -> None:
    of = "budget.of='lora/uniform rank_policy.rank=3'"
    found = made(*LORA_FAMILY["lora"], "budget=match", of)
    assert 0 <= UNIFORM * 3 // 8 - counted(found) < cheapest_rank(found)


def test_a_budget_above_the_full_ranks_gives_the_full_ranks() -> None:
    found = within(made(*LORA_FAMILY["lora"]), Budget("params", 10_000_000.0, None))
    assert {a.rank for a in found.plan.adapted} == {192}


@pytest.mark.parametrize(("kind", "value", "target"), [("params", 50_000.0, 50_000), ("percent", 2.5, 46_232)])
def test_params_and_percent(kind: Literal["params", "percent"], value: float, target: int) -> None:
    found = within(made(*LORA_FAMILY["lora_ar"]), Budget(kind, value, None))
    assert 0 <= target - counted(found) < cheapest_rank(found)


def test_a_head_is_paid_for_first(tmp_path: Path) -> None:
    bert = ("model=minilm", f"model.path={save_bert(tmp_path / 'bert')}", "budget=params", "budget.value=2_000")
    found = made(*bert)
    assert found.base.head_parameters > 32
    lora = sum(rank * size for rank, size in factors(found).values())
    assert found.plan.trainable_parameters == lora + found.base.head_parameters
    assert 0 <= 2_000 - found.plan.trainable_parameters < cheapest_rank(found)


@pytest.mark.parametrize("case", ["lora_ar", "dora", "alors"])
def test_stock_peft_trains_what_was_counted(case: str) -> None:
    found = matched(made(*LORA_FAMILY[case]))
    model = get_peft_model(found.base.blueprint(), lora_config(found.plan, use_dora=case == "dora"))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == found.plan.trainable_parameters


# ---- whole matrices


def greedy(found: Made, selected: list[str], budget: int) -> set[str]:
    """Down the column, each that still fits."""
    frame = found.report.frame().set_index("name")
    taken: set[str] = set()
    for name in frame.loc[selected].sort_values("snr", ascending=False).index:
        if frame.rows[name] * frame.cols[name] <= budget:
            taken.add(name)
            budget -= int(frame.rows[name] * frame.cols[name])
    return taken


@pytest.mark.parametrize("budget", [36_864, 40_000, UNIFORM, 300_000, 777_777])
@pytest.mark.parametrize("fraction", [0.25, 1.0])
def test_spectrum_takes_each_matrix_that_still_fits_down_the_column(budget: int, fraction: float) -> None:
    free = made("method=spectrum", f"rank_policy.top_fraction={fraction}")
    found = within(free, Budget("params", float(budget), None))
    selected = [a.name for a in free.plan.adapted]
    taken = {a.name for a in found.plan.adapted}
    assert taken == greedy(free, selected, budget)
    entries = {m.name: m.sides[0] * m.sides[1] for m in found.base.matrices}
    left = budget - sum(entries[name] for name in taken)
    assert 0 <= left == budget - found.plan.trainable_parameters
    assert all(entries[name] > left for name in set(selected) - taken)


def test_spectrum_matches_another_method() -> None:
    found = matched(made("method=spectrum", "rank_policy.top_fraction=1.0"))
    assert {a.name for a in found.plan.adapted} == greedy(found, list(ranks(found.plan)), UNIFORM)
    assert found.plan.adapter_parameters == 0


def test_a_budget_below_every_selected_matrix() -> None:
    with pytest.raises(PlanError, match=r"budget of 36,000 parameters.*smallest of the 7 .*\(36,864\).*budget\.value"):
        within(made("method=spectrum", "rank_policy.top_fraction=0.25"), Budget("params", 36_000.0, None))


def test_a_budget_below_one_rank_each() -> None:
    message = r"budget of 14,000 parameters is below rank 1 for each of the 28 adapters.*which takes 14,592"
    with pytest.raises(PlanError, match=message):
        within(made(), Budget("params", 14_000.0, None))
    assert within(made(), Budget("params", 14_592.0, None)).plan.trainable_parameters == 14_592


def test_a_method_that_cannot_say_what_a_matrix_costs_keeps_no_budget() -> None:
    _, _, base, report, _ = made()
    parts = PlanParts(Prefix("prefix", 10), NoPolicy(), Ungrouped(), Budget("params", 10_000.0, None))
    with pytest.raises(PlanError, match="method=prefix cannot keep a budget: use budget=none"):
        plan_of(parts, base, report, None)


# ---- controls


@pytest.mark.parametrize("of", ["snr_top", "snr_tiers", "ht_sr", "depth"])
@pytest.mark.parametrize("control", ["random", "inverse"])
def test_a_control_costs_exactly_what_its_policy_costs(control: str, of: str) -> None:
    policy, given = made(f"rank_policy={of}"), made(f"rank_policy={control}", f"rank_policy.of={of}")
    assert ranks(given.plan) != ranks(policy.plan)
    for method in ("lora", "dora", "spectrum"):
        parts = [
            replace(each.experiment.parts, method=made(f"method={method}").experiment.method)
            for each in (policy, given)
        ]
        before, after = (
            plan_of(own, each.base, each.report, None) for own, each in zip(parts, (policy, given), strict=True)
        )
        assert after.trainable_parameters == before.trainable_parameters
        assert Counter(ranks(after).values()) == Counter(ranks(before).values())


@pytest.mark.parametrize("control", ["random", "inverse"])
def test_a_control_matched_with_its_policy_keeps_its_ranks(control: str) -> None:
    free = made(f"rank_policy={control}", "rank_policy.of=ht_sr")
    assert matched(free, "rank_policy=ht_sr").plan == free.plan


# ---- what cannot be adapted


def experts(folder: Path, kind: str) -> tuple[str, ...]:
    model_of(kind).save_pretrained(folder)
    return "model=hf", f"model.path={folder}", "dataset.max_length=16", "rank_policy.rank=2"


@pytest.mark.parametrize(
    ("kind", "left_out", "parts"),
    [
        ("qwen2_moe", 20, ("6 gate_proj", "6 up_proj", "6 down_proj", "2 gate ", "one parameter", "TopKRouter")),
        ("mixtral", 20, ("6 w1", "6 w2", "6 w3", "2 gate ", "one parameter", "TopKRouter")),
        ("gpt2", 0, ()),
    ],
)
def test_what_is_left_out_is_counted_by_type_and_reason(
    kind: str, left_out: int, parts: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="spectral_ft")
    found = made.__wrapped__(*experts(tmp_path, kind))
    caplog.clear()
    plan = plan_allocation(found.experiment.parts, found.base, found.report, None, folder=tmp_path)
    lines = [line for line in caplog.messages if line.startswith("left out ")]
    assert not [a.name for a in plan.adapted if "experts." in a.name or a.name.endswith("mlp.gate")]
    assert len(lines) == bool(left_out)
    for line in lines:
        assert f"left out {left_out} of {len(found.base.matrices)} matrices" in line and "method=lora" in line
        assert all(part in line for part in parts)


@pytest.mark.parametrize("kind", ["qwen2_moe", "mixtral"])
def test_a_policy_that_names_only_what_cannot_be_adapted_is_refused(kind: str, tmp_path: Path) -> None:
    named = "w1" if kind == "mixtral" else "gate"
    with pytest.raises(PlanError, match=rf"rank_policy\.target_modules=.*{named}"):
        made.__wrapped__(*experts(tmp_path, kind), f"rank_policy.target_modules=[{named}]")


# ---- the file


def test_a_plan_that_lies_there_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plan, experiment, base, report, probe = made(*LORA_FAMILY["lora"])
    caplog.set_level("INFO", logger="spectral_ft")
    first = plan_allocation(experiment.parts, base, report, probe, folder=tmp_path)
    assert first == plan == read_json(tmp_path / "plan.json", AllocationPlan)
    assert "allocated 7 of 28 matrices, 29,184 parameters (1.593 %)" in caplog.text
    other = made().experiment.parts
    assert plan_allocation(other, base, report, probe, folder=tmp_path) == plan


Q, NEXT_Q = "model.layers.1.self_attn.q_proj", "model.layers.2.self_attn.q_proj"
TOGETHER = {"group": "mine", "shares": "AB"}
EDITED: dict[str, tuple[dict[str, dict[str, Any]], str]] = {
    "a negative rank": (
        {Q: {"rank": -1}},
        r"plan\.json is damaged or was edited: allocations\.\d+\.rank: .*equal to 0",
    ),
    "a rank that is no number": ({Q: {"rank": "high"}}, r"allocations\.\d+\.rank: .*valid integer"),
    "an unknown field": ({Q: {"rnak": 3}}, r"allocations\.\d+\.rnak"),
    "a rank above the smaller side": ({Q: {"rank": 193}}, rf"gives {Q} rank 193, above its smaller side, which is 192"),
    "unequal ranks": (
        {Q: {**TOGETHER, "rank": 3}, NEXT_Q: TOGETHER},
        rf"group mine has members of unequal rank: {Q} has 3, {NEXT_Q} has 8",
    ),
    "unequal alphas": (
        {Q: {**TOGETHER, "lora_alpha": 3.0}, NEXT_Q: TOGETHER},
        rf"group mine has members of unequal lora_alpha: {Q} has 3\.0, {NEXT_Q} has 16\.0",
    ),
    "a group of one": ({Q: TOGETHER}, rf"group mine has one member, {Q}"),
    "a frozen member": ({Q: {**TOGETHER, "rank": 0}, NEXT_Q: TOGETHER}, rf"{Q} of group mine has rank 0"),
    "nothing shared": ({Q: {"group": "mine"}}, rf"{Q} of group mine does not say what is shared"),
    "shares without a group": ({Q: {"shares": "A"}}, rf"{Q} has shares=A but no group"),
}
"""By module name, what was changed; and what is said of it."""


@pytest.mark.parametrize("fault", EDITED)
def test_a_plan_edited_wrongly_is_named(fault: str, tmp_path: Path) -> None:
    changes, message = EDITED[fault]
    plan, experiment, base, report, probe = made()
    write_json(tmp_path / "plan.json", plan)
    content = json.loads((tmp_path / "plan.json").read_text())
    for allocation in content["allocations"]:
        allocation.update(changes.get(allocation["name"], {}))
    (tmp_path / "plan.json").write_text(json.dumps(content))
    with pytest.raises(SpectralFTError, match=message):
        plan_allocation(experiment.parts, base, report, probe, folder=tmp_path)
    assert json.loads((tmp_path / "plan.json").read_text()) == content
