"""Figures of answers: shares with their standard errors, per task and over the tasks.

The standard error of a mean of n items is their standard deviation, with n − 1, by the root of n: what
EleutherAI's harness reports. Items are taken for independent; tasks are, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from pipeline.quality.items import Item
from pipeline.quality.report import Measurement

Figures = dict[str, Measurement]


def mean(values: Sequence[float]) -> Measurement:
    """The mean of `values`; NaN of none, and no standard error of less than two."""
    if not values:
        return Measurement(math.nan)
    middle = math.fsum(values) / len(values)
    if len(values) < 2:
        return Measurement(middle, None, len(values))
    spread = math.fsum((value - middle) ** 2 for value in values) / (len(values) - 1)
    return Measurement(middle, math.sqrt(spread / len(values)), len(values))


def mean_of(figures: Sequence[Measurement]) -> Measurement:
    """The mean of independent figures, each counting the same; count is that of the figures."""
    if not figures:
        return Measurement(math.nan)
    errors = [each.standard_error for each in figures]
    known = [each for each in errors if each is not None]
    error = math.hypot(*known) / len(figures) if len(known) == len(errors) else None
    return Measurement(math.fsum(each.value for each in figures) / len(figures), error, len(figures))


def least(figures: Sequence[Measurement]) -> Measurement:
    """The smallest of figures, with its own standard error; NaN if any is."""
    worst = min(figures, key=lambda each: (not math.isnan(each.value), each.value), default=None)
    return Measurement(math.nan) if worst is None else worst


def by_task(items: Iterable[Item]) -> dict[str, list[Item]]:
    """The items of each task, in their order."""
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.task, []).append(item)
    return found


def task_figures(items: Iterable[Item]) -> Figures:
    """Of each task `task:NAME`, `.normalised` of multiple choice, `eos_rate:NAME` of what is written."""
    figures: Figures = {}
    for task, own in by_task(items).items():
        figures[f"task:{task}"] = mean([item.score for item in own])
        normalised = [item.normalised for item in own if item.normalised is not None]
        if normalised:
            figures[f"task:{task}.normalised"] = mean(normalised)
        ended = [float(item.ended) for item in own if item.ended is not None]
        if ended:
            figures[f"eos_rate:{task}"] = mean(ended)
    return figures


def overall_figures(items: Sequence[Item], tasks: Mapping[str, Measurement]) -> Figures:
    """`task.mean` and `task.min` over `tasks`, and `eos_rate` over all that was written."""
    figures: Figures = {}
    if tasks:
        figures["task.mean"] = mean_of([*tasks.values()])
        figures["task.min"] = least([*tasks.values()])
    ended = [float(item.ended) for item in items if item.ended is not None]
    if ended:
        figures["eos_rate"] = mean(ended)
    return figures
