"""Plans for models of a few matrices."""

from spectral_ft.types import AllocationPlan, MatrixAllocation
from tests.oracles import matrix

USUAL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def model(blocks, kinds=USUAL):
    return [matrix(f"{block}.{kind}") for block in range(blocks) for kind in kinds]


def plan(matrices, ranks, *, groups=(), shares="AB", held=(), trainable=50, base=950):
    """These ranks and groups, by place; the rest is frozen."""
    return AllocationPlan(
        tuple(
            MatrixAllocation(
                shape.name,
                rank,
                2.0 * rank,
                0.0 if at in held else 1.0,
                *((groups[at], shares) if at < len(groups) and groups[at] else ()),
            )
            for at, (shape, rank) in enumerate(zip(matrices, ranks, strict=True))
        ),
        trainable,
        trainable,
        base,
    )
