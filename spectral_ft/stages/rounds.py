"""Asking the policy again while the model trains, on the weights as they are by then.

At `k / rounds` of the steps the metrics of every adapted matrix are computed on `W + scaling B A`, with the unquantized
W, and the policy makes a new plan; at the end the metrics are only measured. Matrices without an adapter have not
changed.
"""

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spectral_ft.bfloat16 import widened
from spectral_ft.experiment import PlanParts
from spectral_ft.methods.seam import BaseModel
from spectral_ft.models.block_matrices import BlockMatrices
from spectral_ft.spectral.analysis import Analysis, analyse
from spectral_ft.stages.allocation import plan_of
from spectral_ft.storage import read_json, write_json
from spectral_ft.types import (
    PROBE_COLUMNS,
    AllocationPlan,
    MatrixAllocation,
    MatrixShape,
    Probe,
    Round,
    SpectralReport,
)

if TYPE_CHECKING:
    import torch
    from peft import PeftModel

log = logging.getLogger(__name__)
FILE = "rounds.json"


@dataclass
class Reallocation:
    """The plan of a run while it trains."""

    parts: PlanParts
    base: BaseModel
    report: SpectralReport
    probe: Probe | None
    weights: BlockMatrices
    """Of the unquantized checkpoint."""
    how: Analysis
    steps: int
    plan: AllocationPlan
    model: "torch.nn.Module"
    rounds: list[Round] = field(default_factory=list)

    @property
    def boundaries(self) -> list[int]:
        """Steps after which the policy is asked again."""
        count = self.parts.method.rounds
        return [round(k * self.steps / count) for k in range(1, count)]

    @property
    def columns(self) -> list[str]:
        """What the policy reads of the spectra."""
        return sorted(self.parts.rank_policy.reads - set(PROBE_COLUMNS))

    def after_step(self, step: int, optimizer: "torch.optim.Optimizer") -> None:
        """At a boundary: measure, ask, resize.

        Args:
            step: Number of finished optimizer steps.
            optimizer: Whose state follows.
        """
        if step not in self.boundaries or not self.columns:
            return
        from spectral_ft.adapters.resize import resize

        report = self._measured()
        allocations = self._with_kept_adapters(plan_of(self.parts, self.base, report, self.probe))
        changed = resize(self._peft_model, self.plan.allocations, allocations, optimizer=optimizer)
        self.plan = self.parts.method.plan(allocations, self.base)
        self._record(step, report, changed, applied=True)
        log.info(
            "round %d of %d at step %d: %d of %d adapters changed, %s parameters trained",
            len(self.rounds) + 1,
            self.parts.method.rounds,
            step,
            len(changed),
            len(self.plan.adapted),
            f"{self.plan.trainable_parameters:,}",
        )

    def finish(self) -> tuple[Round, ...]:
        """At the end: measure, and record what the policy would say.

        Returns:
            All rounds.
        """
        if self.parts.method.rounds and self.columns:
            report = self._measured()
            plan = plan_of(self.parts, self.base, report, self.probe)
            before = {allocation.name: allocation for allocation in self.plan.allocations}
            changed = [
                a.name for a in plan.allocations if a.rank != before[a.name].rank * bool(before[a.name].lr_multiplier)
            ]
            self._record(self.steps, report, changed, applied=False)
            log.info(
                "measured %s on the trained weights: the policy would now give %d matrices another rank",
                ", ".join(self.columns),
                len(changed),
            )
        return tuple(self.rounds)

    def write(self, checkpoint: Path) -> None:
        """Write the plan and the rounds so far.

        Args:
            checkpoint: Folder.
        """
        write_json(checkpoint / FILE, {"plan": self.plan, "rounds": self.rounds})

    def _record(self, step: int, report: SpectralReport, changed: list[str], *, applied: bool) -> None:
        adapted = {allocation.name for allocation in self.plan.adapted}
        values = {
            column: {s.matrix.name: s.columns[column] for s in report.matrices if s.matrix.name in adapted}
            for column in self.columns
        }
        self.rounds.append(Round(step, applied, tuple(changed), self.plan, values))

    def _measured(self) -> SpectralReport:
        # The report with the adapted matrices as they are now.
        from spectral_ft.adapters.trained_weight import trained_weight

        adapted = {allocation.name for allocation in self.plan.adapted}
        matrices = [spectrum.matrix for spectrum in self.report.matrices if spectrum.matrix.name in adapted]

        def read(matrix: MatrixShape) -> np.ndarray:
            return trained_weight(self._peft_model, matrix.name, widened(self.weights.read(matrix)))

        spectra, _ = analyse(matrices, read, cache=None, how=self.how)
        found = {spectrum.matrix.name: spectrum for spectrum in spectra}
        return replace(
            self.report,
            matrices=tuple(
                replace(new, columns=old.columns | new.columns) if (new := found.get(old.matrix.name)) else old
                for old in self.report.matrices
            ),
        )

    @property
    def _peft_model(self) -> "PeftModel":
        return self.model  # type: ignore[return-value]  # rounds are taken by LoRA only

    def _with_kept_adapters(self, plan: AllocationPlan) -> tuple[MatrixAllocation, ...]:
        # What is no longer chosen keeps its adapter, untrained.
        before = {allocation.name: allocation for allocation in self.plan.adapted}
        return tuple(
            replace(before[a.name], lr_multiplier=0.0) if not a.rank and a.name in before else a
            for a in plan.allocations
        )


@dataclass(frozen=True)
class RoundState:
    """Where a cut training stood."""

    plan: AllocationPlan
    rounds: list[Round]


def state_of(checkpoint: Path) -> RoundState:
    """Read what `Reallocation.write` wrote.

    Args:
        checkpoint: Folder.

    Returns:
        The plan of that step, and the rounds before.
    """
    return read_json(checkpoint / FILE, RoundState)
