"""One model held against others: flips, the gap that was recovered, the slope of transfer.

All by the names of the literature. Standard errors of ratios are those of the delta method: a ratio's
share in each item is (model − base) − ratio · (reference − base), by the gap, and the standard error is
that of the mean of these. The items of the three models are the same questions, so what they have in
common cancels; nothing is drawn at random.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from pipeline.quality.items import Item, pair_items
from pipeline.quality.report import Measurement
from pipeline.quality.scores import Figures, by_task, least, mean, mean_of

Tasks = Mapping[str, Measurement]  # a model's figure of each task, by the task's name


def flips(model: Sequence[Item], reference: Sequence[Item]) -> Figures:
    """Answers right on one side only, as shares of all: `flips`, and per task `.lost` and `.gained`.

    lost: the reference was right, and the model is not. Two models of equal accuracy may differ in many.
    """
    pairs = pair_items(model, reference)
    figures: Figures = {}
    if not pairs:
        return figures
    figures["flips"] = mean([float(pair.left.is_right != pair.right.is_right) for pair in pairs])
    for task in dict.fromkeys(pair.left.task for pair in pairs):
        own = [(p.left.is_right, p.right.is_right) for p in pairs if p.left.task == task]
        figures[f"flips:{task}"] = mean([float(now != then) for now, then in own])
        figures[f"flips:{task}.lost"] = mean([float(then and not now) for now, then in own])
        figures[f"flips:{task}.gained"] = mean([float(now and not then) for now, then in own])
    return figures


def gap_recovered(
    model: Tasks,
    base: Tasks,
    reference: Tasks,
    items: tuple[Sequence[Item], Sequence[Item], Sequence[Item]] = ((), (), ()),
) -> Figures:
    """(model − base) / (reference − base) of each task that all three have, the mean and the least.

    items: of the model, the base and the reference. Where all three have the items of a task, their
    common part cancels in the standard error; where not, the three scores are taken for independent. A
    task in which the reference does as its base has no gap: NaN, and no part of mean and min.
    """
    figures: Figures = {}
    sides = [by_task(each) for each in items]
    recovered = []
    for task in model:
        if task not in base or task not in reference:
            continue
        scores = (model[task], base[task], reference[task])
        figure = _ratio(*scores)
        own = [side.get(task, []) for side in sides]
        if not math.isnan(figure.value) and all(own):
            figure = replace(figure, standard_error=_paired_error(figure.value, *own))
        figures[f"gap_recovered:{task}"] = figure
        if not math.isnan(figure.value):
            recovered.append(figure)
    if figures:
        figures["gap_recovered.mean"] = mean_of(recovered)
        figures["gap_recovered.min"] = least(recovered)
    return figures


def _ratio(model: Measurement, base: Measurement, reference: Measurement) -> Measurement:
    gap = reference.value - base.value
    if gap == 0 or not math.isfinite(gap) or not math.isfinite(model.value):
        return Measurement(math.nan, None, model.count)
    ratio = (model.value - base.value) / gap
    errors = [each.standard_error for each in (model, base, reference)]
    error = None
    if None not in errors:
        own, low, high = (each or 0.0 for each in errors)
        error = math.hypot(own, (1 - ratio) * low, ratio * high) / abs(gap)
    return Measurement(ratio, error, model.count)


def _paired_error(
    ratio: float, model: Sequence[Item], base: Sequence[Item], reference: Sequence[Item]
) -> float | None:
    """The standard error of a ratio from the items that all three have."""
    lows = {item.key: item.score for item in base}
    highs = {item.key: item.score for item in reference}
    triples = [
        (item.score, lows[item.key], highs[item.key])
        for item in model
        if item.key in lows and item.key in highs
    ]
    gap = mean([high - low for _, low, high in triples]).value
    if not triples or gap == 0:
        return None
    return mean([(own - low - ratio * (high - low)) / gap for own, low, high in triples]).standard_error


def transfer_slope(model: Tasks, base: Tasks, donor: Tasks, donor_base: Tasks) -> Figures:
    """`transfer_slope`: the least-squares slope of actual on hypothetical scores over the tasks.

    A task's hypothetical score is base + (donor − donor_base): the formula that made the model, applied
    to scores in place of weights. 1 means that what post-training was worth in one task more than in
    another arrived as it was; a level that is the same in all tasks is left to the intercept. This
    definition is ours: the name is known, a formula was not found. NaN if the tasks' hypothetical scores
    do not differ, or there are less than two; no standard error of less than three.
    """
    common = [task for task in model if task in base and task in donor and task in donor_base]
    if not common:
        return {}
    points = hypothetical(model, base, donor, donor_base)
    return {"transfer_slope": _slope([points[task] for task in common])}


def hypothetical(
    model: Tasks, base: Tasks, donor: Tasks, donor_base: Tasks
) -> dict[str, tuple[float, float]]:
    """Of each task that all four have: its hypothetical score (see `transfer_slope`) and its own."""
    return {
        task: (base[task].value + donor[task].value - donor_base[task].value, model[task].value)
        for task in model
        if task in base and task in donor and task in donor_base
    }


def _slope(points: Sequence[tuple[float, float]]) -> Measurement:
    """The least-squares slope of y on x, with the standard error that the residuals give it."""
    count = len(points)
    x_mean = math.fsum(x for x, _ in points) / count
    y_mean = math.fsum(y for _, y in points) / count
    spread = math.fsum((x - x_mean) ** 2 for x, _ in points)
    if not spread > 1e-12:
        return Measurement(math.nan, None, count)
    slope = math.fsum((x - x_mean) * (y - y_mean) for x, y in points) / spread
    if count < 3:
        return Measurement(slope, None, count)
    residuals = math.fsum((y - y_mean - slope * (x - x_mean)) ** 2 for x, y in points)
    return Measurement(slope, math.sqrt(residuals / (count - 2) / spread), count)
