"""Plots of what was measured: scores against the delta's scale, actual against hypothetical ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.analysis.drawing import STYLES, Style, canvas, entitle, legend_beside, render, shown
from pipeline.quality import compare
from pipeline.quality.report import Evaluation, Measurement, Role

Scaled = tuple[float, Evaluation]
_ROLES: tuple[Role, ...] = ("model", "base", "donor", "donor_base")
_MOST_TASKS = 24  # that are named in a plot
_GREY = "#737373"


def draw_scores(evaluations: Sequence[Scaled], formats: Sequence[str]) -> Mapping[str, bytes]:
    """All plots that `evaluations`, each with its delta's scale, have something for; by file name.

    formats: "svg" and "png". Scores against scale want two scales; actual against hypothetical scores
    want one evaluation with `donor` and `donor_base`.
    """
    plots = {}
    if len({scale for scale, _ in evaluations}) > 1:
        plots["scales"] = partial(_scales, sorted(evaluations, key=lambda each: each[0]))
    for number, (scale, evaluation) in enumerate(evaluations, 1):
        points = hypothetical(evaluation)
        if points:
            name = f"transfer-{number}" if len(evaluations) > 1 else "transfer"
            plots[name] = partial(_transfer, evaluation, points, scale)
    return {
        f"{name}.{form}": data
        for name, draw in plots.items()
        for form, data in render(draw, formats).items()
    }


def tasks_of(evaluation: Evaluation) -> list[str]:
    """The figures of single tasks: "task:NAME", without statistics of them."""
    return [name for name in evaluation.model.figures if name.startswith("task:") and "." not in name]


def hypothetical(evaluation: Evaluation) -> dict[str, tuple[float, float]]:
    """Of each task its hypothetical score, base + (donor − donor_base), and the actual one."""
    names = tasks_of(evaluation)
    model, base, donor, donor_base = (
        {name: scores.figures[name] for name in names if name in scores.figures} if scores else {}
        for scores in map(evaluation.scores.get, _ROLES)
    )
    found = compare.hypothetical(model, base, donor, donor_base)
    return {name: point for name, point in found.items() if all(map(math.isfinite, point))}


def _scales(evaluations: Sequence[Scaled]) -> Figure:
    """A line for each task over the delta's scale; with the base as scale 0 where it was measured."""
    figure, (axes,) = canvas(height_inches=4.2)
    names = list(dict.fromkeys(name for _, each in evaluations for name in tasks_of(each)))
    shown_names = names[: 2 * len(STYLES)]
    for number, name in enumerate(shown_names):
        points = _points(evaluations, name)
        hollow = number >= len(STYLES)
        draw_bars(
            axes, points, STYLES[number % len(STYLES)], shown(name.partition(":")[2]), hollow=hollow
        )
    left_out = len(names) - len(shown_names)
    entitle(figure, f"Score by scale ({left_out} tasks left out)" if left_out else "Score by scale")
    axes.set_xlabel("scale of the delta (0 is the base alone)")
    axes.set_ylabel("share of right answers, ± 1 standard error")
    axes.set_ylim(0, 1.02)
    legend_beside(axes)
    return figure


def _points(evaluations: Sequence[Scaled], name: str) -> list[tuple[float, Measurement]]:
    points = [
        (scale, each.model.figures[name]) for scale, each in evaluations if name in each.model.figures
    ]
    if all(scale for scale, _ in points):
        bases = [each.scores["base"] for _, each in evaluations if "base" in each.scores]
        same = len({base.fingerprint for base in bases}) == 1
        if same and name in bases[0].figures:
            points.insert(0, (0.0, bases[0].figures[name]))
    return sorted(points, key=lambda point: point[0])


def draw_bars(
    axes: Axes, points: Sequence[tuple[float, Measurement]], style: Style, label: str, *, hollow: bool
) -> None:
    """Draw figures against scales as one line, with error bars of one standard error."""
    axes.errorbar(
        [x for x, _ in points],
        [point.value for _, point in points],
        yerr=[point.standard_error or 0.0 for _, point in points],
        color=style.colour, linestyle=style.dashes, marker=style.marker, label=label, capsize=2.5,
        markerfacecolor="white" if hollow else style.colour,
    )  # fmt: skip


def _transfer(evaluation: Evaluation, points: Mapping[str, tuple[float, float]], scale: float) -> Figure:
    """A point for each task, the line where both are the same, and the line that fits best."""
    figure, (axes,) = canvas(height_inches=5.0)
    for number, (name, (x, y)) in enumerate(list(points.items())[:_MOST_TASKS]):
        style = STYLES[number % len(STYLES)]
        error = evaluation.model.figures[name].standard_error or 0.0
        hollow = number >= len(STYLES)
        axes.errorbar(
            [x], [y], yerr=[error], color=style.colour, marker=style.marker, linestyle="none",
            capsize=2.5, label=shown(name.partition(":")[2]),
            markerfacecolor="white" if hollow else style.colour,
        )  # fmt: skip
    ends = _ends(points)
    axes.plot(ends, ends, color=_GREY, linewidth=1.0, linestyle="--", label="actual = hypothetical")
    slope = evaluation.model.figures.get("transfer_slope")
    if slope is not None and math.isfinite(slope.value):
        x_mean, y_mean = (sum(each) / len(points) for each in zip(*points.values(), strict=True))
        fitted = [y_mean + slope.value * (x - x_mean) for x in ends]
        error_of = "" if slope.standard_error is None else f" ± {slope.standard_error:.2f}"
        axes.plot(ends, fitted, color="black", linewidth=1.4, label=f"slope {slope.value:.2f}{error_of}")
    left_out = len(points) - _MOST_TASKS
    title = shown(evaluation.model.location, 60) + (f", scale {scale:g}" if scale != 1 else "")
    entitle(figure, f"{title} ({left_out} tasks left out)" if left_out > 0 else title)
    axes.set_xlabel("hypothetical score: base + (donor − its base), share of right answers")
    axes.set_ylabel("actual score, ± 1 standard error")
    axes.set_aspect("equal", adjustable="datalim")
    legend_beside(axes)
    return figure


def _ends(points: Mapping[str, tuple[float, float]]) -> list[float]:
    values = [value for point in points.values() for value in point]
    return [min(values) - 0.02, max(values) + 0.02]
