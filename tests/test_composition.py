"""What goes together; oracle: sets of names typed from the methods' papers, over every choice of every group."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest

from spectral_ft.allocation.budget import Budget
from spectral_ft.allocation.fitting import units
from spectral_ft.allocation.grouping import check_groups
from spectral_ft.compose import build_experiment, composed
from spectral_ft.composition import check_composition, check_parts
from spectral_ft.configuration import CONF
from spectral_ft.errors import ConfigError, PlanError
from spectral_ft.experiment import Costed, Experiment, PlanParts, all_parts, columns_read
from spectral_ft.methods.seam import BaseModel
from spectral_ft.stages.allocation import plan_of
from spectral_ft.types import AllocationPlan, MatrixSpectrum, SpectralReport
from tests.oracles import matrix

DEFAULTS = {
    "adalora": ("Uniform", "none", "none"),
    "adapter_p": ("NoPolicy", "none", "none"),
    "adapter_s": ("NoPolicy", "none", "none"),
    "alors": ("SnrTiers", "none", "nf4"),
    "dora": ("Uniform", "none", "none"),
    "eva": ("ExplainedVariance", "none", "none"),
    "full": ("NoPolicy", "none", "none"),
    "ia3": ("NoPolicy", "none", "none"),
    "ln_tuning": ("NoPolicy", "none", "none"),
    "lora": ("Uniform", "none", "none"),
    "lora_ar": ("HtSr", "none", "none"),
    "none": ("NoPolicy", "none", "none"),
    "prefix": ("NoPolicy", "none", "none"),
    "rslora": ("Uniform", "none", "none"),
    "sgm": ("SnrTop", "sgm", "nf4"),
    "spectraqlora": ("SnrTop", "none", "nf4"),
    "spectrum": ("SnrTop", "none", "none"),
}
"""Method to the policy, grouping and quantization that it brings to a model that brings none."""
LORA_FAMILY = {"lora", "rslora", "dora", "spectraqlora", "alors", "sgm", "lora_ar"}
RANKED = LORA_FAMILY | {"eva", "adalora", "spectrum"}
SHARING = LORA_FAMILY - {"dora"}
IN_FULL_PRECISION = {"full", "spectrum"}
HEADLESS = {"adapter_s", "adapter_p"}

POLICIES = tuple(sorted(path.stem for path in (CONF / "rank_policy").glob("*.yaml")))
GROUPINGS = ("none", "sgm")
QUANTIZATIONS = ("none", "nf4", "int8")
BUDGETS = ("none", "params", "percent", "match")
VALUES = {"params": ["budget.value=30_000"], "percent": ["budget.value=0.48"]}


def built(*overrides: str) -> Experiment:
    return build_experiment(composed(["model=smollm2-135m", *overrides]))


@pytest.fixture(scope="module")
def methods() -> dict[str, Experiment]:
    """Each method with what it brings."""
    return {name: built(f"method={name}") for name in DEFAULTS}


@pytest.fixture(scope="module")
def choices(methods: dict[str, Experiment]) -> dict[str, dict[str, Any]]:
    """Component by group and choice. With LoRA every pair of policy, quantization, budget and grouping builds."""
    found: dict[str, dict[str, Any]] = {"rank_policy": {"none": methods["none"].rank_policy}}
    for number, policy in enumerate(choice for choice in POLICIES if choice != "none"):
        other = {
            "quantization": QUANTIZATIONS[number % len(QUANTIZATIONS)],
            "budget": BUDGETS[number % len(BUDGETS)],
            "grouping": GROUPINGS[number % len(GROUPINGS)],
        }
        said = [f"{group}={choice}" for group, choice in other.items()] + VALUES.get(other["budget"], [])
        experiment = built("method=lora", f"rank_policy={policy}", *said)
        found["rank_policy"][policy] = experiment.rank_policy
        for group, choice in other.items():
            found.setdefault(group, {})[choice] = getattr(experiment, group)
    return found


def test_every_choice_is_tried(methods: dict[str, Experiment], choices: dict[str, dict[str, Any]]) -> None:
    assert set(methods) == {path.stem for path in (CONF / "method").glob("*.yaml")}
    for group, known in {"grouping": GROUPINGS, "quantization": QUANTIZATIONS, "budget": BUDGETS}.items():
        assert set(choices[group]) == set(known) == {path.stem for path in (CONF / group).glob("*.yaml")}
    assert set(choices["rank_policy"]) == set(POLICIES) and len(POLICIES) == 10


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_method_brings_its_policy_grouping_and_quantization(name: str, methods: dict[str, Experiment]) -> None:
    experiment = methods[name]
    policy, grouping, quantization = DEFAULTS[name]
    assert experiment.method.name == name
    assert type(experiment.rank_policy).__name__ == policy
    assert type(experiment.grouping).__name__ == {"none": "Ungrouped", "sgm": "Sgm"}[grouping]
    assert experiment.quantization.label.removesuffix("-double") == quantization
    assert experiment.method.rounds == (1 if name in LORA_FAMILY else 0)
    assert experiment.method.activation_checkpointing == (name == "alors")
    assert experiment.budget.kind == "none"


def at_odds(method: str, policy: str, grouping: str, quantization: str, budget: str) -> Iterator[tuple[str, str]]:
    """What each sentence must name."""
    said = f"method={method}"
    if (method in RANKED) == (policy == "none") or (method == "eva" and policy != "explained_variance"):
        yield said, f"rank_policy={policy}"
    if grouping != "none" and method not in SHARING:
        yield said, f"grouping={grouping}"
    if quantization != "none" and method in IN_FULL_PRECISION:
        yield said, f"quantization={quantization}"
    if budget != "none" and method not in RANKED - {"eva"}:
        yield said, f"budget.kind={budget}"


def refusal(experiment: Experiment) -> list[str]:
    try:
        check_composition(experiment)
    except ConfigError as error:
        return str(error).splitlines()
    return []


def names(sentence: str, pair: tuple[str, str]) -> bool:
    return all(re.search(rf"(?<![\w.]){re.escape(choice)}(?!\w)", sentence) for choice in pair)


def held_against(sentences: list[str], expected: list[tuple[str, str]]) -> None:
    """Every pair has a sentence that names both; every sentence names such a pair and says what to do."""
    for pair in expected:
        assert any(names(sentence, pair) for sentence in sentences), pair
    for sentence in sentences:
        assert any(names(sentence, pair) for pair in expected), sentence
        assert re.search(r"[Uu]se [a-z]|set |Set ", sentence) and sentence.endswith("."), sentence


@pytest.mark.parametrize("name", DEFAULTS)
def test_what_goes_together_builds_and_what_does_not_is_named_in_pairs(
    name: str, methods: dict[str, Experiment], choices: dict[str, dict[str, Any]]
) -> None:
    for policy, grouping, quantization, budget in product(POLICIES, GROUPINGS, QUANTIZATIONS, BUDGETS):
        experiment = replace(
            methods[name],
            rank_policy=choices["rank_policy"][policy],
            grouping=choices["grouping"][grouping],
            quantization=choices["quantization"][quantization],
            budget=choices["budget"][budget],
        )
        label = experiment.quantization.label
        expected = list(at_odds(name, policy, grouping, quantization, budget))
        sentences = [sentence.replace(f"={label}", f"={quantization}") for sentence in refusal(experiment)]
        held_against(sentences, expected)
        parts = [pair for pair in expected if not pair[1].startswith("quantization")]
        if parts:
            with pytest.raises(ConfigError, match=rf"method={name} "):
                check_parts(experiment.parts)
        else:
            check_parts(experiment.parts)


def test_the_legal_compositions_are_as_many_as_the_papers_allow() -> None:
    every = product(DEFAULTS, POLICIES, GROUPINGS, QUANTIZATIONS, BUDGETS)
    legal = sum(not list(at_odds(*each)) for each in every)
    family = 9 * 3 * 4 * (2 * len(SHARING) + 1)  # policies, quantizations, budgets; groupings
    others = 9 * 3 * 4 + 9 * 4 + 3 + 6 * 3 + 1  # adalora, spectrum, eva, without ranks, full
    assert legal == family + others


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("asked", [None, False, True])
def test_only_a_prefix_refuses_recomputed_activations(
    name: str, asked: bool | None, methods: dict[str, Experiment]
) -> None:
    experiment = methods[name]
    training = replace(experiment.training, activation_checkpointing=asked)
    wrong = [("method=prefix", "training.activation_checkpointing=true")] if (name, asked) == ("prefix", True) else []
    held_against(refusal(replace(experiment, training=training)), wrong)


@pytest.mark.parametrize("kind", ["causal_lm", "seq2seq", "classifier"])
@pytest.mark.parametrize("train_on_inputs", [False, True])
@pytest.mark.parametrize("name", DEFAULTS)
def test_only_a_causal_model_has_a_loss_on_its_input_and_a_bottleneck_trains_no_head(
    name: str, train_on_inputs: bool, kind: Any, methods: dict[str, Experiment]
) -> None:
    experiment = methods[name]
    model = replace(experiment.model, kind=kind, labels=["no", "yes"] if kind == "classifier" else None)
    dataset = replace(experiment.dataset, train_on_inputs=train_on_inputs)  # type: ignore[type-var]
    wrong = [(f"method={name}", "model=smollm2-135m")] if kind == "classifier" and name in HEADLESS else []
    if train_on_inputs and kind != "causal_lm" and name != "none":
        wrong.append(("dataset.train_on_inputs=true", f"model.kind={kind}"))
    held_against(refusal(replace(experiment, model=model, dataset=dataset)), wrong)


@pytest.mark.parametrize("rounds", [0, 1, 2, 5])
@pytest.mark.parametrize("name", sorted(LORA_FAMILY))
def test_rounds_change_the_ranks_of_own_factors_only(name: str, rounds: int, methods: dict[str, Experiment]) -> None:
    experiment = methods[name]
    if name == "dora":
        if rounds > 1:
            with pytest.raises(ConfigError, match=rf"rounds={rounds} does not go with method\.use_dora=true: .* Set"):
                replace(experiment.method, rounds=rounds)  # type: ignore[type-var]
        return
    moving = replace(experiment, method=replace(experiment.method, rounds=rounds))  # type: ignore[type-var]
    wrong = [(f"method.rounds={rounds}", "grouping=sgm")] if rounds > 1 and name == "sgm" else []
    if rounds > 1 and not experiment.rank_policy.reads:
        wrong.append((f"method.rounds={rounds}", "rank_policy=uniform"))
    held_against(refusal(moving), wrong)


def test_a_method_without_rounds_has_no_such_option() -> None:
    with pytest.raises(ConfigError, match=r"method\.rounds is no option\..* method has name, dropout, initial_factor"):
        composed(["method=adalora", "method.rounds=2"])


def test_several_faults_are_told_at_once(methods: dict[str, Experiment], choices: dict[str, dict[str, Any]]) -> None:
    wrong = replace(
        methods["full"], rank_policy=choices["rank_policy"]["ht_sr"], quantization=choices["quantization"]["int8"]
    )
    assert len(refusal(wrong)) == 2


def test_a_method_with_ranks_says_what_they_cost_and_no_other(methods: dict[str, Experiment]) -> None:
    assert {name for name, experiment in methods.items() if isinstance(experiment.method, Costed)} == RANKED


SHAPES = {"q": (48, 48), "k": (24, 48), "v": (24, 48), "o": (48, 48), "up": (80, 48), "down": (48, 80)}


def analysed() -> SpectralReport:
    draw = np.random.default_rng(0)
    spectra = []
    for block, (kind, shape) in product(range(6), SHAPES.items()):
        columns: dict[str, float | None] = {
            "snr": float(draw.uniform(0.1, 4)),
            "alpha_hill": float(draw.uniform(2, 8)),
            "num_spikes": float(draw.integers(0, 9)),
            "gradient": float(draw.uniform(1e-6, 1e-4)),
            "input_rank": float(draw.integers(0, 16)),
        }
        spectra.append(MatrixSpectrum(matrix(f"{block}.{kind}", shape), None, columns))
    return SpectralReport("by hand", "", {}, tuple(spectra))


REPORT = analysed()


def no_model() -> Any:
    raise AssertionError("a plan of ranks needs no model")


BASE = BaseModel(
    matrices=tuple(spectrum.matrix for spectrum in REPORT.matrices),
    parameters=1_000_000,
    heads=("score",),
    head_parameters=50,
    task_type="SEQ_CLS",
    blueprint=no_model,
)


def planned(parts: PlanParts, budget: Budget | None = None) -> AllocationPlan:
    return plan_of(replace(parts, budget=budget) if budget else parts, BASE, REPORT, None)


def parameters_of(number: int) -> Budget:
    return Budget("params", float(number), None)


def ranks_of(plan: AllocationPlan) -> dict[str, int]:
    return {allocation.name: allocation.rank for allocation in plan.allocations}


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("name", sorted(LORA_FAMILY))
def test_every_plan_of_ranks_fills_its_budget(
    name: str, grouped: bool, methods: dict[str, Experiment], choices: dict[str, dict[str, Any]]
) -> None:
    if grouped and name not in SHARING:
        return
    near = replace(choices["grouping"]["sgm"], similarity="snr", snr_threshold=0.5)
    groups = set()
    for policy in sorted(set(POLICIES) - {"none"}):
        parts = replace(
            methods[name].parts,
            rank_policy=choices["rank_policy"][policy],
            grouping=near if grouped else choices["grouping"]["none"],
            budget=choices["budget"]["none"],
        )
        free = planned(parts)
        assert planned(parts, parameters_of(free.trainable_parameters)) == free
        lora = planned(methods["lora"].parts).trainable_parameters
        for budget, target in (
            (parameters_of(9_000), 9_000),
            (Budget("percent", 1.5, None), 15_228),  # 1.5 / 98.5 of a million
            (Budget("match", None, methods["lora"].parts), lora),
        ):
            plan = planned(parts, budget)
            costs = {m.name: parts.method.cost(m) for m in BASE.matrices}  # type: ignore[attr-defined]
            units_left = [u for u in units(plan.allocations, BASE.matrices, costs) if u.weight < u.largest_rank]
            unused = target - plan.trainable_parameters
            assert unused >= 0 and all(unused < unit.per_rank for unit in units_left)
            assert plan.trainable_parameters == plan.adapter_parameters
            check_groups(plan.allocations, BASE.matrices)
            for one, other in zip(plan.allocations, free.allocations, strict=True):
                assert (one.rank > 0, one.group, one.shares) == (other.rank > 0, other.group, other.shares)
            groups |= {allocation.group for allocation in plan.allocations}
    assert (len(groups) > 5) == grouped


def test_magnitudes_are_paid_before_ranks(methods: dict[str, Experiment]) -> None:
    lora, dora = methods["lora"].parts, methods["dora"].parts
    magnitudes = sum(m.sides[0] for m in BASE.matrices)
    assert planned(dora).trainable_parameters == planned(lora).trainable_parameters + magnitudes
    assert ranks_of(planned(dora, parameters_of(15_000 + magnitudes))) == ranks_of(planned(lora, parameters_of(15_000)))


@pytest.mark.parametrize("policy", ["uniform", "snr_top", "random", "inverse"])
def test_adalora_takes_a_selection(
    policy: str, methods: dict[str, Experiment], choices: dict[str, dict[str, Any]]
) -> None:
    parts = replace(methods["adalora"].parts, rank_policy=choices["rank_policy"][policy])
    assert planned(parts).allocations == parts.rank_policy.allocate(REPORT)


@pytest.mark.parametrize("policy", ["snr_tiers", "depth", "ht_sr", "gradient", "explained_variance"])
def test_adalora_takes_a_selection_and_no_ranks(
    policy: str, methods: dict[str, Experiment], choices: dict[str, dict[str, Any]]
) -> None:
    words = (
        r"method=adalora takes a selection .* gives ranks from \d+ to \d+: use a policy of one rank \(uniform, snr_top"
    )
    with pytest.raises(PlanError, match=words):
        planned(replace(methods["adalora"].parts, rank_policy=choices["rank_policy"][policy]))


@pytest.mark.parametrize(
    ("policy", "target"),
    [
        ("uniform", 9_000),
        ("uniform", 15_228),
        ("uniform", 40_001),
        ("snr_top", 9_000),
        ("snr_top", 40_001),
        ("inverse", 15_228),
    ],
)
def test_adalora_takes_the_largest_one_rank_that_its_budget_pays(
    policy: str, target: int, methods: dict[str, Experiment], choices: dict[str, dict[str, Any]]
) -> None:
    parts = replace(methods["adalora"].parts, rank_policy=choices["rank_policy"][policy])
    plan = planned(parts, parameters_of(target))
    (rank,) = {allocation.rank for allocation in plan.adapted}
    chosen = [m for m in BASE.matrices if ranks_of(plan)[m.name]]
    price = sum(sum(m.sides) + 1 for m in chosen)  # d_in + d_out + 1 a rank
    assert plan.trainable_parameters == rank * price + BASE.head_parameters <= target
    highest = min(m.smaller_side for m in chosen) - 1  # one must be left to take away
    assert rank == highest or target < (rank + 1) * price + BASE.head_parameters


@pytest.mark.parametrize("target", [2_000, 9_000, 20_000, 10**6])
def test_spectrum_takes_matrices_by_their_ratio_while_they_fit(target: int, methods: dict[str, Experiment]) -> None:
    parts = methods["spectrum"].parts
    chosen = {a.name for a in planned(parts).adapted}
    snr = {spectrum.matrix.name: spectrum.columns["snr"] or 0.0 for spectrum in REPORT.matrices}
    entries = {m.name: m.sides[0] * m.sides[1] for m in BASE.matrices}
    kept, left = set(), target - BASE.head_parameters
    for name in sorted(chosen, key=lambda name: -snr[name]):
        if entries[name] <= left:
            kept.add(name)
            left -= entries[name]
    plan = planned(parts, parameters_of(target))
    assert {a.name for a in plan.adapted} == kept
    assert (plan.trainable_parameters, plan.adapter_parameters) == (target - left, 0)
    assert all(entries[name] > left for name in chosen - kept)


def test_a_budget_below_the_smallest_matrix_is_refused(methods: dict[str, Experiment]) -> None:
    words = (
        r"budget of 1,201 parameters is below the smallest of the 6 selected matrices \(1,152\): raise budget\.value"
    )
    with pytest.raises(PlanError, match=words):
        planned(methods["spectrum"].parts, parameters_of(1_201))
    assert len(planned(methods["spectrum"].parts, parameters_of(1_202)).adapted) == 1


@pytest.mark.parametrize("name", sorted(set(DEFAULTS) - RANKED))
def test_a_method_without_ranks_keeps_no_budget(name: str, methods: dict[str, Experiment]) -> None:
    with pytest.raises(PlanError, match=rf"method={name} cannot keep a budget: use budget=none"):
        planned(methods[name].parts, parameters_of(9_000))


def test_a_plan_of_nothing_or_of_everything_can_be_matched(methods: dict[str, Experiment]) -> None:
    lora = methods["lora"].parts
    with pytest.raises(PlanError, match="below rank 1 for each of the 36 adapters"):
        planned(lora, Budget("match", None, methods["none"].parts))
    everything = planned(lora, Budget("match", None, methods["full"].parts))
    assert ranks_of(everything) == {m.name: m.smaller_side for m in BASE.matrices}


def test_a_budget_that_is_too_small_is_told_as_it_was_given(methods: dict[str, Experiment]) -> None:
    with pytest.raises(PlanError, match="the budget of 1,000 parameters is below rank 1"):
        planned(methods["lora"].parts, parameters_of(1_000))


def test_what_a_plan_reads_is_what_all_its_parts_read(
    methods: dict[str, Experiment], choices: dict[str, dict[str, Any]]
) -> None:
    sgm, lora_ar = methods["sgm"].parts, methods["lora_ar"].parts
    matching = replace(methods["lora"].parts, budget=Budget("match", None, lora_ar))
    assert all_parts(sgm, matching) == [sgm, matching, lora_ar]
    assert columns_read([matching]) == frozenset()
    assert columns_read(all_parts(matching)) == {"alpha_hill", "num_spikes"}
    by_gradient = replace(sgm, rank_policy=choices["rank_policy"]["gradient"])
    assert columns_read([by_gradient]) == {"gradient", "snr"}
    assert columns_read([]) == frozenset()
