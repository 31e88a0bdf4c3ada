"""Plots of a sweep: each metric against the deltas' scale, with error bars."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

from matplotlib.figure import Figure

from pipeline.analysis.drawing import STYLES, canvas, entitle, legend_beside, render, shown
from pipeline.analysis.score_plots import draw_bars
from pipeline.quality.report import Role, metric_of
from pipeline.quality.sweep import Sweep, is_higher_better, known_of, names_of

_MOST_LINES = 2 * len(STYLES)
_AXES = {
    "bits_per_byte": "bits per byte",
    "perplexity": "perplexity",
    "finite": "share of finite logits",
    "kl": "KL(reference ‖ model), nats",
    "same_top": "share of equal likeliest tokens",
    "task": "share of right answers",
    "eos_rate": "share of answers that end",
    "flips": "share of answers that change",
    "gap_recovered": "share of the gap recovered",
    "transfer_slope": "transfer slope",
}
_DASHES: Mapping[Role, str] = {"base": ":", "reference": "--"}
_OTHERS = "#737373"


def draw_sweep(sweep: Sweep, formats: Sequence[str]) -> dict[str, bytes]:
    """A plot for each metric that has figures at two scales or more; by file name.

    formats: "svg" and "png".
    """
    kinds: dict[str, list[str]] = {}
    # What is over all sets comes first: it is no line to be left out.
    for name in sorted(names_of(sweep.points), key=lambda name: ":" in name):
        kind = metric_of(name)
        is_plotted = is_higher_better(name) is not None or kind == name
        if kind in _AXES and is_plotted and len(known_of(sweep.points, name)) > 1:
            kinds.setdefault(kind, []).append(name)
    return {
        f"{kind}.{form}": data
        for kind, names in kinds.items()
        for form, data in render(partial(_draw, sweep, kind, names), formats).items()
    }


def _draw(sweep: Sweep, kind: str, names: Sequence[str]) -> Figure:
    """A line for each set or task, and level ones for what base and reference do over all."""
    figure, (axes,) = canvas(height_inches=4.2)
    for number, name in enumerate(names[:_MOST_LINES]):
        style = STYLES[number % len(STYLES)]
        label = shown(name.partition(":")[2] or name)
        draw_bars(axes, known_of(sweep.points, name), style, label, hollow=number >= len(STYLES))
    overall = next((name for name in (kind, f"{kind}.mean") if name in names), None)
    for role, dashes in _DASHES.items():
        scores = sweep.others.get(role)
        level = scores.figures.get(overall) if scores and overall else None
        if level is not None and math.isfinite(level.value):
            axes.axhline(level.value, color=_OTHERS, linestyle=dashes, linewidth=1.0, label=role)
    left_out = len(names) - _MOST_LINES
    title = f"{kind.replace('_', ' ')} by scale"
    entitle(figure, f"{title} ({left_out} lines left out)" if left_out > 0 else title)
    axes.set_xlabel("scale of the delta (0 is the base alone)")
    axes.set_ylabel(f"{_AXES[kind]}, ± 1 standard error")
    legend_beside(axes)
    return figure
