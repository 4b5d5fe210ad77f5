"""PEFT and the Trainer as their documentation sets them up, and by hand what PEFT has no option for."""

from collections import Counter, defaultdict
from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LNTuningConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    TaskType,
    get_peft_model,
    prepare_model_for_kbit_training,
)
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed

from spectral_ft.types import MatrixAllocation
from train_parts.jobs import SEED, AfterStep, Job


def load_stock(job: Job) -> Any:
    """The base.

    Args:
        job: With its folder.

    Returns:
        In float32, or in NF4.
    """
    packing = job.experiment.quantization.load_options(torch.float32)
    return AutoModelForCausalLM.from_pretrained(job.folder, dtype=torch.float32, quantization_config=packing)


def stock_model(job: Job, model: Any) -> Any:
    """The base with what the plan trains.

    Args:
        job: With its plan.
        model: The base.

    Returns:
        PEFT's model; the base itself where its own weights are trained.
    """
    plan, options = job.allocation, job.experiment.config["method"]
    if getattr(model, "is_loaded_in_4bit", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=job.checkpointing)
    set_seed(SEED)
    if options["name"] == "full":
        return model
    if options["name"] == "spectrum":
        model.requires_grad_(False)
        for allocation in plan.adapted:
            model.get_submodule(allocation.name).weight.requires_grad_(True)
        return model
    adapted = get_peft_model(model, _config(plan.adapted, options, job.steps))
    _tie(adapted, plan.adapted)
    return adapted


def _config(adapted: tuple[MatrixAllocation, ...], options: dict[str, Any], steps: int) -> PeftConfig:
    causal = TaskType.CAUSAL_LM
    match options["name"]:
        case "prefix":
            return PrefixTuningConfig(task_type=causal, num_virtual_tokens=options["virtual_tokens"])
        case "ia3":
            modules = {name: options[name] for name in ("target_modules", "feedforward_modules")}
            return IA3Config(task_type=causal, **modules)
        case "ln_tuning":
            return LNTuningConfig(task_type=causal, target_modules=options["target_modules"])
        case "adalora":
            return _adalora_config(adapted, options, steps)
        case _:
            return _lora_config(adapted, options)


def _lora_config(adapted: tuple[MatrixAllocation, ...], options: dict[str, Any]) -> LoraConfig:
    (rank, alpha), _ = Counter((a.rank, a.lora_alpha) for a in adapted).most_common(1)[0]
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]
        target_modules=[a.name for a in adapted],
        rank_pattern={a.name: a.rank for a in adapted},
        alpha_pattern={a.name: a.lora_alpha for a in adapted},
        lora_dropout=options["dropout"],
        use_rslora=options["use_rslora"],
        use_dora=options["use_dora"],
    )


def _adalora_config(adapted: tuple[MatrixAllocation, ...], options: dict[str, Any], steps: int) -> AdaLoraConfig:
    rank = adapted[0].rank
    initial = round(options["initial_factor"] * rank)
    return AdaLoraConfig(
        task_type=TaskType.CAUSAL_LM,
        target_modules=[a.name for a in adapted],
        target_r=rank,
        init_r=initial,
        lora_alpha=adapted[0].lora_alpha / rank * initial,  # type: ignore[arg-type]
        lora_dropout=options["dropout"],
        tinit=round(options["tinit"] * steps),
        tfinal=round(options["tfinal"] * steps),
        deltaT=options["interval"],
        orth_reg_weight=options["orthogonality"],
        total_step=steps,
    )


def _tie(model: PeftModel, adapted: tuple[MatrixAllocation, ...]) -> None:
    # PEFT has no groups: what one would do by hand.
    owners: dict[tuple[str, str], Any] = {}
    for allocation in sorted(adapted, key=lambda a: a.name):
        layer = model.get_base_model().get_submodule(allocation.name)
        for factor in (allocation.shares or "") if allocation.group else "":
            one = getattr(layer, f"lora_{factor}")["default"]
            one.weight = owners.setdefault((str(allocation.group), factor), one.weight)


def tiers(model: Any, adapted: tuple[MatrixAllocation, ...], arguments: TrainingArguments) -> Any:
    """The optimizer of a plan with several learning rates.

    Args:
        model: Adapted.
        adapted: What each matrix gets.
        arguments: Of the training.

    Returns:
        With a group a rate; None where one rate leaves it to the Trainer.
    """
    rates = {a.name: a.lr_multiplier for a in adapted}
    if set(rates.values()) <= {1.0}:
        return None
    groups: dict[float, list[torch.nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[next(rate for module, rate in rates.items() if f".{module}." in name)].append(parameter)
    kind, options = Trainer.get_optimizer_cls_and_kwargs(arguments, model)
    base = options.pop("lr")
    members = [{"params": each, "lr": base * rate} for rate, each in groups.items()]
    return kind(members, weight_decay=arguments.weight_decay, **options)


def schedule(model: Any) -> list[TrainerCallback]:
    """AdaLoRA's allocator, called with the number of finished steps.

    Args:
        model: Adapted.

    Returns:
        None of it for other methods.
    """
    allocate = getattr(getattr(model, "base_model", None), "update_and_allocate", None)
    return [AfterStep(allocate)] if allocate else []
