"""Low-rank adapters on the matrices of a plan, each with its own rank.

One `LoraConfig` with rank and alpha patterns: applying `get_peft_model` twice nests wrappers and
silently resets adapters.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import _check_lora_target_modules_mamba
from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from spectral_ft.adapters.counting import check_count
from spectral_ft.adapters.lora_layer import factors, is_adapted
from spectral_ft.adapters.sharing import tie
from spectral_ft.errors import PlanError
from spectral_ft.types import AllocationPlan


def lora_config(
    plan: AllocationPlan, *, task_type: str = "CAUSAL_LM", heads: Sequence[str] = (), **options: Any
) -> LoraConfig:
    """The PEFT configuration that says what the plan says.

    Args:
        plan: With at least one adapted matrix.
        task_type: PEFT's name of what the model is for.
        heads: Module names of what is trained as a whole beside the adapters.
        **options: Further ones of `LoraConfig`: `lora_dropout`, `use_rslora`, `use_dora`.

    Returns:
        The configuration: the commonest rank and alpha as defaults, the others as patterns over
        escaped module names.

    Raises:
        PlanError: If the plan adapts nothing.
    """
    if not plan.adapted:
        raise PlanError(f"the plan freezes all {len(plan.allocations)} matrices: there is nothing to train.")
    (rank, alpha), _ = Counter((a.rank, a.lora_alpha) for a in plan.adapted).most_common(1)[0]
    return LoraConfig(
        task_type=task_type,
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT declares int and takes any number
        target_modules=[a.name for a in plan.adapted],
        rank_pattern={re.escape(a.name): a.rank for a in plan.adapted if a.rank != rank},
        alpha_pattern={re.escape(a.name): a.lora_alpha for a in plan.adapted if a.lora_alpha != alpha},
        modules_to_save=list(heads) or None,
        **options,
    )


def add_lora(
    model: PreTrainedModel,
    plan: AllocationPlan,
    *,
    task_type: str = "CAUSAL_LM",
    heads: Sequence[str] = (),
    **options: Any,
) -> PeftModel:
    """Put the plan's adapters on a model; no logit changes, since `B` starts at zero.

    Args:
        model: Frozen base.
        plan: What each matrix gets; the matrices of a group share factors.
        task_type: PEFT's name of what the model is for.
        heads: Module names of what is trained as a whole beside the adapters.
        **options: Further ones of `LoraConfig`.

    Returns:
        The adapted model; only the adapters and heads are trainable.

    Raises:
        PlanError: If what PEFT made is not what the plan counted, or PEFT cannot do it on this base.
    """
    _check_modules(model, plan)
    if options.get("use_dora"):
        _check_dora(model, plan)
    adapted = get_peft_model(model, lora_config(plan, task_type=task_type, heads=heads, **options))
    tie(adapted, plan)
    for allocation in plan.adapted:
        if not allocation.lr_multiplier:
            adapted.get_base_model().get_submodule(allocation.name).requires_grad_(False)
    check_count(adapted, plan.trainable_parameters)
    return adapted


def obstacles(model: PreTrainedModel, names: Iterable[str], *, whole: bool = False) -> dict[str, str]:
    """Why some matrices of a model cannot be adapted.

    Args:
        model: With or without weights.
        names: Of its matrices.
        whole: The matrices themselves are to be trained; otherwise adapters are to be attached to them.

    Returns:
        Name to reason, for those that cannot be.
    """
    modules = dict(model.named_modules())
    text = _text_part(model)
    found = {}
    for name in names:
        module = modules.get(name)
        if whole and not isinstance(getattr(module, "weight", None), torch.Tensor):
            found[name] = "it is stacked with others in one parameter"
        elif not whole and not isinstance(module, torch.nn.Linear | Conv1D):
            stacked = module is None or "expert" in type(module).__name__.lower()
            owner = "stacked with others in one parameter" if stacked else f"a {type(module).__name__}"
            found[name] = f"it is {owner}, not a linear module"
        elif text is not None and not name.startswith(text):
            found[name] = f"text does not reach it: it is outside of {text.rstrip('.')}"
        elif not whole and _is_refused(model, name):
            found[name] = f"PEFT refuses adapters on it in a {model.config.model_type} model"
        elif not whole and _is_redirected(model, name):
            found[name] = f"PEFT would put its adapter on the stacked experts of a {model.config.model_type} model"
    return found


def _text_part(model: PreTrainedModel) -> str | None:
    # What the names of the modules that see text begin with; None if all do.
    if model.config.get_text_config() is model.config or not hasattr(model, "get_decoder"):
        return None
    decoder = model.get_decoder()
    return next((f"{name}." for name, module in model.named_modules() if module is decoder and name), None)


def _is_refused(model: PreTrainedModel, name: str) -> bool:
    # Their fused kernels read the weight itself, so that an adapter would do nothing.
    try:
        _check_lora_target_modules_mamba(LoraConfig(), model, name.rpartition(".")[2])
    except ValueError:
        return True
    return False


def _is_redirected(model: PreTrainedModel, name: str) -> bool:
    # PEFT takes every `gate_proj` of some architectures for an expert, a dense or shared one too.
    config = LoraConfig(target_modules=[name])
    try:
        convert_peft_config_for_transformers(config, model, None)
    except ValueError:
        return True
    return name not in (config.target_modules or ())


def _check_modules(model: PreTrainedModel, plan: AllocationPlan) -> None:
    for name, reason in obstacles(model, [allocation.name for allocation in plan.adapted]).items():
        raise PlanError(
            f"{name} of this {type(model).__name__} can have no adapter: {reason}. Leave it out by "
            "rank_policy.target_modules."
        )


def _check_dora(model: PreTrainedModel, plan: AllocationPlan) -> None:
    # On a CPU PEFT's DoRA puts an 8-bit weight back without its scales, and the second forward pass has none.
    modules = dict(model.named_modules())
    for allocation in plan.adapted:
        weight = getattr(modules.get(allocation.name), "weight", None)
        if type(weight).__name__ == "Int8Params" and weight is not None and weight.device.type == "cpu":
            raise PlanError(
                f"PEFT's DoRA does not run on an 8-bit base on a CPU ({allocation.name}): use nf4, none, or a GPU."
            )


CHOOSING = frozenset({"exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters"})
"""Options of `LoraConfig` by which other matrices are adapted than the plan's."""


def check_configuration(model: PreTrainedModel, config: LoraConfig, plan: AllocationPlan, *, heads: int) -> None:
    """Refuse a configuration by which PEFT makes other adapters than the plan counted.

    Args:
        model: Without weights; changed in place.
        config: Of the adapters.
        plan: What they should be.
        heads: Parameters of the plan that are trained beside the adapters.

    Raises:
        PlanError: If the number of the adapters' parameters is not the plan's.
    """
    _check_modules(model, plan)
    # PEFT changes the configuration that it is given.
    adapted = get_peft_model(model, deepcopy(config), low_cpu_mem_usage=True)
    made = sum(parameter.numel() for name, parameter in adapted.named_parameters() if "lora_" in name)
    if made != (planned := plan.adapter_parameters - heads):
        raise PlanError(
            f"PEFT makes adapters of {made:,} parameters from this configuration, and the plan counts {planned:,}: "
            "leave out the options of LoraConfig that change which matrices are adapted, or the policy's types."
        )


def set_directions(model: PeftModel, directions: Mapping[str, np.ndarray]) -> None:
    """Start `A` of each adapter from given directions; no logit changes while `B` is zero.

    Args:
        model: As `add_lora` made it.
        directions: Module name to (rank, d_in), the rank being the adapter's.

    Raises:
        PlanError: If an adapter has no directions, or not as many as its rank.
    """
    for name, layer in model.get_base_model().named_modules():
        if not is_adapted(layer):
            continue
        weight, _ = factors(layer)
        found = directions.get(name)
        if found is None or found.shape != tuple(weight.shape):
            raise PlanError(
                f"{name} has rank {weight.shape[0]}, and {0 if found is None else len(found)} directions were found "
                "for it on the calibration batches: EVA's start needs exactly the ranks that EVA gave "
                "(rank_policy=explained_variance, budget=none)."
            )
        with torch.no_grad():
            weight.copy_(torch.from_numpy(found))
