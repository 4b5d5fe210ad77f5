"""The method's count; oracle: r (d_out + d_in), and the published counts."""

from spectral_ft.methods.lora import Lora
from spectral_ft.types import MatrixAllocation, MatrixShape


def test_lora_on_five_modules_of_llama_7b_counts_as_published() -> None:
    """LLM-Adapters' table: r 32 on q, k, v, up, down is 56,098,816 = 0.826 % of all."""
    shapes = {"q": (4096, 4096), "k": (4096, 4096), "v": (4096, 4096), "up": (11008, 4096), "down": (4096, 11008)}
    matrices = tuple(
        MatrixShape(name=f"{block}.{kind}", type=kind, side="reads", block=block, shape=shape)
        for block in range(32)
        for kind, shape in shapes.items()
    )
    allocations = tuple(MatrixAllocation(name=m.name, rank=32, lora_alpha=64.0) for m in matrices)
    plan = Lora(name="lora", dropout=0.05).plan(allocations, matrices, base_parameters=6_738_415_616)
    assert plan.trainable_parameters == plan.adapter_parameters == 56_098_816
    assert round(plan.trainable_percent, 3) == 0.826
