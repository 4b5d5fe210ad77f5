"""Bottleneck adapters as a method; oracles: counts by hand, the sites by name."""

import pytest
import torch

from spectral_ft.adapters.bottleneck_layer import BottleneckLinear
from spectral_ft.errors import PlanError
from spectral_ft.methods.bottleneck import Bottleneck
from tests.methods.small_bases import METHODS, adapt, frozen, logits, planned, seen

BASE = seen(frozen("llama"))


@pytest.mark.parametrize(
    ("name", "types", "each"),
    [("adapter_s", ("gate_proj", "up_proj"), 16), ("adapter_p", ("up_proj", "down_proj"), 32)],
)
def test_the_sites_are_those_modules_of_every_block(name: str, types: tuple[str, ...], each: int) -> None:
    """A width of 8 in series, both sides (8 and 24) in parallel; 2 blocks, 2 sites, 5 wide."""
    plan = planned(METHODS[name], BASE)
    sites = [m.name for m in BASE.matrices if m.type in types]
    assert [a.name for a in plan.adapted] == sites and {a.rank for a in plan.adapted} == {5}
    assert plan.trainable_parameters == plan.adapter_parameters == 2 * 2 * 5 * each
    adapted = adapt(name, frozen("llama"), BASE).model
    found = {path for path, module in adapted.named_modules() if isinstance(module, BottleneckLinear)}
    assert found == set(sites)


def test_the_size_may_be_above_the_smaller_side() -> None:
    method = Bottleneck("adapter_s", "series", ["up_proj"], 100, "zero")
    assert planned(method, BASE).trainable_parameters == 2 * 2 * 100 * 8


def test_the_start_is_what_was_asked() -> None:
    for init, stays in (("zero", True), ("bert", False)):
        method = Bottleneck("adapter_p", "parallel", ["up_proj"], 5, init)
        adapted = adapt("adapter_p", frozen("llama"), BASE, method=method).model
        assert torch.equal(logits(adapted), logits(frozen("llama"))) == stays


def test_a_site_that_the_model_has_not_is_refused() -> None:
    method = Bottleneck("adapter_s", "series", ["up_proj", "fc1"], 5, "zero")
    with pytest.raises(PlanError, match=r"method\.sites has fc1, which is no module type .* there is down_proj, gate"):
        planned(method, BASE)
