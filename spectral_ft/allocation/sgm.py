"""SGM's rule: matrices that look alike by spectrum and by gradient share one adapter."""

import logging
import math
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Annotated, Literal, NamedTuple, cast

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from spectral_ft.allocation.clusters import (
    CONTROLS,
    joint_distances,
    linked_groups,
    positive_values,
    scaled_log_distances,
)
from spectral_ft.allocation.grouping import By, group_names, residual_factor, share_classes
from spectral_ft.allocation.similarity import (
    SIMILARITIES,
    Similarity,
    class_similarities,
    comparable_pairs,
    split_half_agreement,
)
from spectral_ft.errors import ConfigError, PlanError
from spectral_ft.types import MatrixAllocation, MatrixShape, Probe, Shares, SpectralReport

log = logging.getLogger(__name__)

DEFAULT_THRESHOLD = 0.5
"""Smallest cosine within a group; SGM's number."""
DEFAULT_QUANTILES: dict[str, float | None] = {"gram": 0.9}
"""By rule: of the similarities of all pairs."""
DEFAULT_SHARES = {"gram": "residual_side"}
"""By option `similarity`: `gram` speaks for that side only; all others share the pair."""


class _ShareClass(NamedTuple):
    members: list[MatrixShape]
    apart: np.ndarray
    similar: np.ndarray | None


@dataclass(frozen=True, config=ConfigDict(extra="forbid", strict=True))
class Sgm:
    """Groups of which every pair is close in a spectral column and similar in gradient.

    Within each share class (`grouping.share_classes`) the distance of two matrices is

        max(d_snr / snr_threshold, (1 - similarity) / (1 - limit))

    with `d_snr` the difference of `ln(column)`, scaled to [0, 1] within the class; complete linkage is cut at 1, so
    that every pair of a group holds both limits, and a cluster above `max_size` is split down its own tree. Members
    have equal rank (a shared factor has one), equal learning-rate multiplier (it is stepped once) and equal
    lora_alpha (the sum of their gradients would weigh them by it).

    `similarity` compares the probe's gradient sketches: `cosine` the gradients themselves, `gram` what they do on the
    side of the residual stream; `snr` looks at the column alone. The controls `random` and `adjacent` copy the sizes
    of the groups that `like` forms in each class, and take as members any at random, or neighbours in the order of
    blocks. The limit is `threshold`, or the `threshold_quantile` of the similarities of all pairs that may share; with
    neither, a threshold of 0.5 for `cosine` and the quantile 0.9 for `gram`, whose level is not known beforehand.

    Source: SGM's text (cosine of gradients, and column) and its code (column alone). Departs from them: logarithms,
    since on raw values nearly all pairs lie within 0.1; complete linkage, so that no chain of neighbours joins what is
    far apart; `gram`, since the cosine between gradients of different matrices is near zero.

    Known gaps: two different matrices that are a whole class are 1 apart in `d_snr`; `gram` compares no class of fewer
    than three; a quantile always admits some pairs, however little alike they are.
    """

    similarity: Literal["cosine", "gram", "snr", "random", "adjacent"]
    like: Literal["cosine", "gram", "snr"]
    by: By
    column: str
    snr_threshold: Annotated[float, Field(gt=0)]
    threshold: Annotated[float, Field(ge=-1, lt=1)] | None
    threshold_quantile: Annotated[float, Field(ge=0, le=1)] | None
    max_size: Annotated[int, Field(ge=2)]
    share: Literal["pair", "residual_side"] | None
    seed: Annotated[int, Field(ge=0)]

    def __post_init__(self) -> None:
        """Check that there is one limit, and something to hold it against.

        Raises:
            ConfigError: If both limits on the similarity are given, or one where no similarity is computed.
        """
        if self.threshold is not None and self.threshold_quantile is not None:
            raise ConfigError(
                f"grouping.threshold={self.threshold:g} and grouping.threshold_quantile={self.threshold_quantile:g}: "
                "give one of them, and null for the other."
            )
        if not self.reads_sketches and (self.threshold, self.threshold_quantile) != (None, None):
            raise ConfigError(
                f"grouping.similarity={self._title} compares no gradients, so grouping.threshold and "
                "grouping.threshold_quantile must be null: limit the column by grouping.snr_threshold."
            )

    @property
    def _title(self) -> str:
        return f"{self.similarity} like {self.like}" if self.similarity in CONTROLS else self.similarity

    @property
    def reads(self) -> frozenset[str]:
        """Columns of the report; the controls read theirs too, for the sizes."""
        return frozenset({self.column})

    @property
    def reads_sketches(self) -> bool:
        """Of the probe."""
        return self._rule in SIMILARITIES

    def group(
        self, allocations: tuple[MatrixAllocation, ...], report: SpectralReport, probe: Probe | None
    ) -> tuple[MatrixAllocation, ...]:
        """Name the groups, and say what they share.

        Args:
            allocations: Of the policy; the adapted ones are the candidates.
            report: Of the model.
            probe: With sketches of the adapted matrices, where `reads_sketches`.

        Returns:
            The same allocations in the same order, those of a group with its name (such as `self_attn.q_proj/0`,
            numbered from the lowest block) and what it shares; ungrouped, with a warning, if no pair is close enough.

        Raises:
            PlanError: If the column, an adapted matrix or its sketch is missing, or a side is needed and not known.
        """
        read = probe if self.reads_sketches else None
        if self.reads_sketches and probe is None:
            raise PlanError(
                f"grouping.similarity={self._title} compares gradients and there is no probe: run the probe stage, or "
                "take grouping.similarity=snr."
            )
        adapted = {a.name: (a.rank, a.lora_alpha, a.lr_multiplier) for a in allocations if a.rank}
        values = positive_values(report, adapted, column=self.column)
        if len(values) < len(adapted):
            log.info("%d of %d matrices have no positive %s", len(adapted) - len(values), len(adapted), self.column)
        candidates = [spectrum.matrix for spectrum in report.matrices if spectrum.matrix.name in values]
        shares = {matrix.name: self._shares(matrix) for matrix in candidates}
        classes, rule = [], cast(Similarity, self._rule)
        for members in share_classes(candidates, by=self.by, also_equal=adapted):
            apart = scaled_log_distances(np.array([values[matrix.name] for matrix in members]))
            similar = None if read is None else class_similarities(members, read, similarity=rule)
            classes.append(_ShareClass(members, apart, similar))
        limit = self._limit(classes)
        groups = self._groups(classes, limit)
        self._tell(groups, classes, adapted, limit, read)
        group_of = group_names(groups, by=self.by)
        return tuple(
            replace(a, group=group_of.get(a.name), shares=shares[a.name] if a.name in group_of else None)
            for a in allocations
        )

    @property
    def _rule(self) -> str:
        # By which groups form, if only for their sizes.
        return self.like if self.similarity in CONTROLS else self.similarity

    def _shares(self, matrix: MatrixShape) -> Shares:
        share = self.share or DEFAULT_SHARES.get(self.similarity)
        return residual_factor(matrix) if share == "residual_side" else "AB"

    def _limit(self, classes: list[_ShareClass]) -> float:
        if self.threshold is not None:
            return self.threshold
        quantile = self.threshold_quantile
        quantile = DEFAULT_QUANTILES.get(self._rule) if quantile is None else quantile
        if quantile is None:
            return DEFAULT_THRESHOLD
        pairs = _similar_pairs(classes)
        return float(np.quantile(pairs, quantile)) if len(pairs) else math.nan

    def _groups(self, classes: list[_ShareClass], limit: float) -> list[list[MatrixShape]]:
        generator = np.random.default_rng(self.seed)
        groups = []
        for members, apart, similar in classes:
            distances = joint_distances(apart, similar, snr_threshold=self.snr_threshold, limit=limit)
            found = linked_groups(distances, max_size=self.max_size)
            if self.similarity in CONTROLS:
                found = CONTROLS[self.similarity]([len(group) for group in found], len(members), generator)
            groups += [[members[index] for index in group] for group in found]
        return groups

    def _tell(
        self,
        groups: list[list[MatrixShape]],
        classes: list[_ShareClass],
        adapted: Collection[str],
        limit: float,
        probe: Probe | None,
    ) -> None:
        seen = self._title
        if probe is not None:
            halves = np.array(list(split_half_agreement(probe, adapted).values()))
            seen += f", largest similarity {_shown(_similar_pairs(classes), np.max)}, "
            seen += f"split-half agreement {_shown(halves, np.mean)}, limit {limit:.2f}"
        if groups:
            count = sum(map(len, groups))
            log.info("grouped %d of %d matrices in %d groups (%s)", count, len(adapted), len(groups), seen)
        else:
            log.warning(
                "no two of %d matrices are close enough to share, so each has its own adapter (%s; smallest difference "
                "of ln %s %s, limit %g)",
                len(adapted),
                seen,
                self.column,
                _shown(comparable_pairs(found.apart for found in classes), np.min),
                self.snr_threshold,
            )


def _similar_pairs(classes: list[_ShareClass]) -> np.ndarray:
    return comparable_pairs(found.similar for found in classes if found.similar is not None)


def _shown(values: np.ndarray, summary: Callable[[np.ndarray], float]) -> str:
    return f"{summary(values):.2f}" if len(values) else "unknown"
