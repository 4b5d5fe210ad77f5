"""Whole matrices and everything; oracles: parameters by name, gradients."""

from spectral_ft.types import Cost, MatrixAllocation
from tests.methods.small_bases import METHODS, adapt, batch_for, frozen, mixed, planned, seen, trained
from tests.oracles import matrix


def test_a_matrix_costs_all_its_entries_whatever_the_rank() -> None:
    assert METHODS["spectrum"].cost(matrix("0.q_proj", (5, 7))) == Cost(a=0, b=0, fixed=35)


def test_the_plan_gives_a_selected_matrix_its_full_rank() -> None:
    base = seen(frozen("llama"))
    asked = (*mixed(base.matrices)[:-1], MatrixAllocation(base.matrices[-1].name, 1, 2.0, 0.5))
    plan = METHODS["spectrum"].plan(asked, base)
    for before, after, m in zip(asked, plan.allocations, base.matrices, strict=True):
        rank = m.smaller_side if before.rank else 0
        assert (after.rank, after.lora_alpha, after.lr_multiplier) == (rank, rank, before.lr_multiplier)


def test_the_selected_matrices_are_trained_and_nothing_else() -> None:
    base = seen(frozen("llama"))
    model = adapt("spectrum", frozen("llama"), base).model
    expected = {f"{a.name}.weight" for a in planned(METHODS["spectrum"], base).adapted}
    assert set(trained(model)) == expected and expected
    model(**batch_for(model)).loss.backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == expected


def test_full_trains_everything() -> None:
    model = adapt("full", frozen("llama")).model
    assert set(trained(model)) == {name for name, _ in model.named_parameters()}


def test_a_classifier_s_head_is_trained_beside_the_matrices() -> None:
    model = adapt("spectrum", frozen("bert")).model
    assert {"classifier.weight", "classifier.bias"} < set(trained(model))
