"""Low-rank adapters on the matrices of a plan, each with its own rank.

One `LoraConfig` with rank and alpha patterns: applying `get_peft_model` twice nests wrappers and
silently resets adapters.
"""

import re
from collections import Counter
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from transformers import PreTrainedModel

from spectral_ft.errors import CheckpointError, PlanError
from spectral_ft.types import AllocationPlan, MatrixShape


def lora_parameters(plan_ranks: dict[str, int], matrices: tuple[MatrixShape, ...]) -> int:
    """What the adapters of a plan hold: `r (d_out + d_in)` each.

    Args:
        plan_ranks: Module name to rank; 0 adds nothing.
        matrices: Of the model.

    Returns:
        The number of parameters.
    """
    return sum(plan_ranks[matrix.name] * sum(matrix.sides) for matrix in matrices)


def lora_config(plan: AllocationPlan, *, dropout: float) -> LoraConfig:
    """The PEFT configuration that says what the plan says.

    Args:
        plan: With at least one adapted matrix.
        dropout: On the adapter's input.

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
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # PEFT declares int and takes any number
        lora_dropout=dropout,
        target_modules=[a.name for a in plan.adapted],
        rank_pattern={re.escape(a.name): a.rank for a in plan.adapted if a.rank != rank},
        alpha_pattern={re.escape(a.name): a.lora_alpha for a in plan.adapted if a.lora_alpha != alpha},
    )


def add_lora(model: PreTrainedModel, plan: AllocationPlan, *, dropout: float) -> PeftModel:
    """Put the plan's adapters on a model; no logit changes, since `B` starts at zero.

    Args:
        model: Frozen base.
        plan: What each matrix gets.
        dropout: On the adapter's input.

    Returns:
        The adapted model; only the adapters are trainable.

    Raises:
        PlanError: If what PEFT made is not what the plan counted.
    """
    adapted = get_peft_model(model, lora_config(plan, dropout=dropout))
    trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    if trainable != plan.trainable_parameters:
        raise PlanError(
            f"the plan counts {plan.trainable_parameters} trainable parameters, the adapted model has {trainable}."
        )
    return adapted


def open_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """Put a saved adapter on its base.

    Args:
        model: Frozen base.
        folder: As `save_pretrained` wrote it.

    Returns:
        The adapted model, in evaluation mode.

    Raises:
        CheckpointError: If the folder does not fit the base.
    """
    try:
        return PeftModel.from_pretrained(model, folder).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise CheckpointError(f"{folder} could not be put on this base model: {error}") from error
