"""EVA as a method; oracles: the probe's directions, the base's own logits, LoRA's count."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from spectral_ft.errors import PlanError
from spectral_ft.methods.eva import Eva
from spectral_ft.types import Cost, Probe
from tests.methods.small_bases import adapt, directions, frozen, logits, lora, mixed, planned, seen
from tests.oracles import matrix

METHOD = Eva("eva", 0.0)


@pytest.mark.parametrize("model_type", ["llama", "bert", "t5"])
def test_a_starts_at_the_directions_and_no_logit_changes(model_type: str) -> None:
    base = seen(frozen(model_type))
    found = directions(planned(METHOD, base), base.matrices).components
    adapted = adapt("eva", frozen(model_type), base).model.eval()
    started = {
        name: layer.lora_A["default"].weight
        for name, layer in adapted.get_base_model().named_modules()
        if "default" in getattr(layer, "lora_A", {})
    }
    assert started.keys() == found.keys()
    for name, weight in started.items():
        assert np.array_equal(weight.detach().numpy(), found[name]), name
    assert torch.equal(logits(adapted), logits(frozen(model_type)))


def test_it_costs_what_lora_costs() -> None:
    base = seen(frozen("llama"))
    allocations = mixed(base.matrices)
    assert METHOD.plan(allocations, base) == lora().plan(allocations, base)
    assert METHOD.cost(matrix("0.q_proj", (5, 7))) == Cost(a=7, b=5)


def test_the_options_reach_the_layers() -> None:
    config = adapt("eva", frozen("bert"), method=Eva("eva", 0.25)).model.peft_config["default"]
    assert (config.lora_dropout, config.task_type) == (0.25, "SEQ_CLS") and "classifier" in config.modules_to_save


def put(probe: Probe | None) -> None:
    model = frozen("llama")
    base = seen(model)
    METHOD.adapt(model, planned(METHOD, base), base=base, steps=1, probe=probe)


def test_a_start_without_directions_is_refused() -> None:
    base = seen(frozen("llama"))
    whole = directions(planned(METHOD, base), base.matrices)
    some = sorted(whole.components)[3]
    with pytest.raises(PlanError, match="method=eva starts from the directions of a probe, and there is none"):
        put(None)
    with pytest.raises(PlanError, match="method=eva starts from the directions of a probe, and there is none"):
        put(Probe(ids=(0,), columns={}))
    rank = len(whole.components[some])
    without = {name: found for name, found in whole.components.items() if name != some}
    with pytest.raises(PlanError, match=f"{some} has rank {rank}, and 0 directions were found for it"):
        put(replace(whole, components=without))
    more = whole.components | {some: np.vstack([whole.components[some]] * 2)}
    with pytest.raises(
        PlanError, match=rf"{some} has rank {rank}, and {2 * rank} directions were found .* budget=none"
    ):
        put(replace(whole, components=more))
