"""What a method must know of whole tensors before it can do a chunk, found by walks without outputs.

Tensors are taken in groups, so that tables stay small whatever the model's size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.plan import Plan
from pipeline.engine.walk import walk
from pipeline.engine.work import Work
from pipeline.operations.addends.addend import Addend
from pipeline.operations.fit import Fitted, SumPlan
from pipeline.operations.fusion.layout import Fused, refuse_tensors
from pipeline.operations.fusion.methods import Drop
from pipeline.operations.kernels.deltas import Deltas, Recipe, scratch_bytes
from pipeline.operations.kernels.rows import ruled_elements
from pipeline.operations.kernels.survey import (
    Bands,
    HighCounts,
    LowCounts,
    LowPairs,
    Masses,
    Measure,
    Products,
    Ranks,
    SurveyKernel,
)
from pipeline.operations.setup import Setup
from pipeline.storage.base import Reader
from pipeline.tensors.fusion import HIGH_BINS
from pipeline.tensors.fusion_select import (
    Banded,
    Kept,
    Lows,
    ends_of,
    find_band,
    kept_largest,
    kept_middle,
    nothing_kept,
)

_MOST_JOBS = 1 << 14  # that are walked together
_TABLE_BYTES = 64 << 20  # of counts, for a group of tensors
_GROUP_ELEMENTS = 1 << 28  # of a group's deltas: their counts take 0.5 bytes each at the worst
_SMALLEST_MASS = 1e-7  # that is rescaled by, as in mergekit
_SMALLEST_NORM, _SMALLEST_LENGTHS, _STRAIGHT = 1e-8, 1e-6, 0.9995  # as in mergekit
_SINGULAR = 1e-6

Way = Callable[[Sequence[int]], list[Recipe]]


@dataclass(frozen=True)
class Survey:
    """What is walked: a layout of the sum, and what its inputs are read by."""

    fused: Fused
    layout: SumPlan
    addends: Sequence[Addend]
    scales: Sequence[float]
    readers: Sequence[Reader]
    setup: Setup

    def recipes(self) -> list[Recipe | None]:
        """For each job how its deltas are put together; None for one that needs no method.

        Raises Mismatch for tensors of which something is to be known that a NaN makes unknowable, and
        what reading them raises.
        """
        found: list[Recipe | None] = [None] * len(self.layout.tensors)
        wanted = [n for n, item in enumerate(self.layout.tensors) if self.fused.combines(item)]
        for make, numbers, most in self._ways(wanted):
            for group in self._groups(numbers, most):
                for number, recipe in zip(group, make(group), strict=True):
                    found[number] = recipe
        unknown = [n for n, recipe in enumerate(found) if recipe and not recipe.is_known]
        refuse_tensors(
            [
                f"{self.layout.tensors[n].result.name} has values that are NaN or infinite, which "
                f"{self.fused.fusion.method} would spread over all of it"
                for n in unknown
            ],
            where=", ".join(addend.location for addend in self.addends),
        )
        return found

    def _ways(self, wanted: Sequence[int]) -> list[tuple[Way, Sequence[int], int]]:
        """How recipes are found for which jobs, of so many at most together."""
        fusion, jobs = self.fused.fusion, self.layout.plan.jobs
        if not fusion.surveys:
            return [(self._by_nothing, wanted, _MOST_JOBS)]
        if fusion.kind.by_angles:
            return [(self._by_products, wanted, _MOST_JOBS)]
        if fusion.kind.drops not in (Drop.SMALLEST, Drop.OUTLIERS):
            return [(self._by_masses, wanted, _MOST_JOBS)]
        small = [number for number in wanted if jobs[number].chunks == 1]
        others = [number for number in wanted if jobs[number].chunks != 1]
        tables = max(1, _TABLE_BYTES // (8 * HIGH_BINS * len(self.addends)))
        return [(self._by_bands_at_once, small, _MOST_JOBS), (self._by_bands, others, tables)]

    def _recipe(
        self,
        bands: Sequence[Banded | None] = (),
        rescale: Sequence[float] = (),
        weights: Sequence[float] = (),
        ends: tuple[float, float] | None = None,
    ) -> Recipe:
        count = len(self.addends)
        return Recipe(bands or [None] * count, rescale or [1.0] * count, weights or self.scales, ends)

    def _groups(self, numbers: Sequence[int], most: int) -> Iterator[list[int]]:
        """Jobs that are walked together."""
        group: list[int] = []
        elements = 0
        for number in numbers:
            count = self.layout.plan.jobs[number].count * len(self.addends)
            if group and (len(group) == most or elements + count > _GROUP_ELEMENTS):
                yield group
                group, elements = [], 0
            group.append(number)
            elements += count
        if group:
            yield group

    def _walk(self, plan: Plan, group: Sequence[int], measure: Measure) -> None:
        """Measure every chunk of the plan."""
        arithmetic = self.setup.resources.arithmetic
        items = [self.layout.tensors[number] for number in group]
        done = np.zeros(plan.rows, np.bool_)
        work = Work(
            title=f"survey {len(group)} tensors",
            plan=plan,
            readers=self.readers,
            make_kernel=lambda: SurveyKernel(
                items,
                Deltas(self.fused.fusion, [addend.decoder(arithmetic) for addend in self.addends]),
                measure,
                done,
            ),
            scratch_bytes=scratch_bytes(self.fused.fusion, len(self.addends))
            + sum(addend.scratch_bytes for addend in self.addends),
        )
        walk(work, self.setup.resources.limits, self.setup.progress)

    def _by_nothing(self, group: Sequence[int]) -> list[Recipe]:
        """Nothing is left out."""
        return [self._recipe()] * len(group)

    def _by_bands_at_once(self, group: Sequence[int]) -> list[Recipe]:
        """Thresholds of tensors that are a single chunk each."""
        plan = self.fused.survey_plan(self.layout, group)
        bands = Bands([self._kept(self.layout.tensors[number]) for number in group])
        self._walk(plan, group, bands)
        return [self._recipe(found) for found in bands.found]

    def _by_bands(self, group: Sequence[int]) -> list[Recipe]:
        """Thresholds of magnitude, in one walk or two."""
        plan, deltas = self.fused.survey_plan(self.layout, group), len(self.addends)
        kept = [self._kept(self.layout.tensors[number]) for number in group]
        highs = HighCounts(plan.rows, len(group), deltas)
        self._walk(plan, group, highs)
        ranks = [
            [ends_of(each, bins) for each, bins in zip(*pair, strict=True)]
            for pair in zip(kept, highs.bins, strict=True)
        ]
        recipes = []
        for job, rows in enumerate(self._lows(plan, group, highs, ranks)):
            bands = []
            for number in range(deltas):
                chunks = [each[number] or _NO_LOWS for each in rows]
                ends = ranks[job][number]
                found = find_band(kept[job][number], ends, chunks) if ends else nothing_kept(len(rows))
                bands.append(found)
            recipes.append(self._recipe(bands))
        return recipes

    def _lows(
        self, plan: Plan, group: Sequence[int], highs: HighCounts, ranks: Sequence[Ranks]
    ) -> list[list[LowPairs]]:
        """For each job the second counts of its rows. Jobs of too many magnitudes are walked for it."""
        known = [highs.lows(plan.rows_of(job), ranks[job]) for job in range(len(group))]
        again = [job for job, rows in enumerate(known) if rows is None]
        if again:
            numbers = [group[job] for job in again]
            second = self.fused.survey_plan(self.layout, numbers)
            counts = LowCounts(second.rows, [ranks[job] for job in again])
            self._walk(second, numbers, counts)
            for place, job in enumerate(again):
                known[job] = counts.lows[second.rows_of(place)]
        return [rows for rows in known if rows is not None]

    def _kept(self, item: Fitted) -> list[Kept]:
        fusion = self.fused.fusion
        found = []
        for tensor in item.added:
            shape = tensor.record.base_shape
            ruled = ruled_elements(item.rules, shape)  # these are zeros here, and count as none
            count = math.prod(shape) - ruled
            if fusion.kind.drops is Drop.SMALLEST:
                kept = kept_largest(count, fusion.density)
            else:
                kept = kept_middle(count, fusion.density, fusion.gamma)
            found.append(replace(kept, first=kept.first + ruled, stop=kept.stop + ruled))
        return found

    def _by_masses(self, group: Sequence[int]) -> list[Recipe]:
        """What was left out by chance, made up for."""
        plan = self.fused.survey_plan(self.layout, group)
        masses = Masses(plan.rows, len(self.addends))
        self._walk(plan, group, masses)
        recipes = []
        for job in range(len(group)):
            rows = masses.sums[plan.rows_of(job)]
            totals = [(_sum(rows[:, k, 0]), _sum(rows[:, k, 1])) for k in range(len(self.addends))]
            recipes.append(self._recipe(rescale=[_ratio(*each) for each in totals]))
        return recipes

    def _by_products(self, group: Sequence[int]) -> list[Recipe]:
        """The angles between deltas, or models."""
        plan = self.fused.survey_plan(self.layout, group)
        products = Products(plan.rows, len(self.addends))
        self._walk(plan, group, products)
        recipes = []
        for job in range(len(group)):
            rows = products.sums[plan.rows_of(job)]
            count = rows.shape[1]
            sums = [[_sum(rows[:, max(i, j), min(i, j)]) for j in range(count)] for i in range(count)]
            if self.fused.fusion.method == "slerp":
                recipes.append(self._recipe(ends=slerp_ends(sums, self._share)))
            else:
                recipes.append(self._recipe(weights=stock_weights(sums, self.scales)))
        return recipes

    @property
    def _share(self) -> float:
        """Of the second model, for slerp."""
        return self.scales[0] if len(self.scales) == 1 else self.scales[1] / sum(self.scales)


_NO_LOWS = (Lows(np.empty(0, np.uint16), np.empty(0, np.uint32)),) * 2


def slerp_ends(products: Sequence[Sequence[float]], share: float) -> tuple[float, float]:
    """The factors of two vectors with these inner products, `share` of the way along the arc.

    Along the line where they are almost parallel (Shoemake, "Animating rotation with quaternion curves",
    SIGGRAPH 1985). NaN if a product is.
    """
    lengths = [math.sqrt(products[k][k]) for k in range(2)]
    first, second = (length if length > _SMALLEST_NORM else 1.0 for length in lengths)
    cosine = products[0][1] / (first * second)
    if abs(cosine) > _STRAIGHT:
        return 1 - share, share
    angle = math.acos(cosine)
    return (math.sin((1 - share) * angle) / math.sin(angle), math.sin(share * angle) / math.sin(angle))


def stock_weights(products: Sequence[Sequence[float]], scales: Sequence[float]) -> list[float]:
    """The factors of deltas with these inner products: t / N each, t = N c / (1 + (N - 1) c).

    c is the mean of their cosines (arXiv 2403.19522, equation 5 for more than two models); scales are
    those of the models, whose deltas turn round with a negative one. NaN if a product is.
    """
    count = len(scales)
    cosines = []
    for i, j in combinations(range(count), 2):
        lengths = math.sqrt(products[i][i]) * math.sqrt(products[j][j]) * abs(scales[i] * scales[j])
        cosine = scales[i] * scales[j] * products[i][j] / max(lengths, _SMALLEST_LENGTHS)
        cosines.append(float(np.clip(cosine, -1, 1)))
    mean = sum(cosines) / len(cosines)
    divisor = 1 + (count - 1) * mean
    share = 0.0 if abs(divisor) < _SINGULAR else mean / divisor
    return [scale * share for scale in scales]


def _sum(values: NDArray[np.float64]) -> float:
    """Correctly rounded, so in any order; NaN if any is no finite number."""
    return math.fsum(values.tolist()) if np.isfinite(values).all() else math.nan


def _ratio(whole: float, kept: float) -> float:
    return 1.0 if whole < _SMALLEST_MASS or kept < _SMALLEST_MASS else whole / kept
