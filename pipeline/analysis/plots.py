"""Plots of what deltas are made of: by layer, by module, by size, and of one beside another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.analysis.drawing import (
    COLOURS,
    MISSING,
    STYLES,
    Style,
    canvas,
    entitle,
    legend_beside,
    line,
    plain_log,
    powers_of_two,
    render,
    shown,
    whole_numbers,
)
from pipeline.analysis.report import (
    GROUPS,
    Agreement,
    Analysis,
    DeltaFigures,
    Group,
    Histogram,
    PairFigures,
)

Cells = Mapping[tuple[int, str], float]  # by layer and module
Draw = Callable[[], Figure]
Floats = NDArray[np.float64]

_STYLE_OF: Mapping[Group, Style] = dict(zip(GROUPS, STYLES, strict=False))
_ALL = Style("#000000", "-", "")
_MOST_LINES = len(STYLES)
_MOST_ROWS = 30  # of a heat map
_WIDE = 20.0  # largest / smallest from which a scale is logarithmic
_MOST_VECTOR_CELLS = 400  # of a heat map; more are drawn as pixels
_MOST_LEVELS = 3  # tensors outside of layers that are drawn


def draw_analysis(analysis: Analysis, formats: Sequence[str]) -> Mapping[str, bytes]:
    """All plots of `analysis` that have something to show, by file name.

    formats: "svg" and "png". With several deltas those of one begin with its number, from 1.
    """
    found = {}
    for name, draw in _plots(analysis):
        for form, data in render(draw, formats).items():
            found[f"{name}.{form}"] = data
    return found


def _plots(analysis: Analysis) -> Iterator[tuple[str, Draw]]:
    several = len(analysis.deltas) > 1
    for number, delta in enumerate(analysis.deltas, 1):
        prefix = f"{number}-" if several else ""
        title = f"{number}: {shown(delta.location, 60)}" if several else shown(delta.location, 60)
        if delta.layers:
            yield f"{prefix}norms", partial(_norms, delta, title)
        for name, cells, label in (
            ("modules", _relatives(delta), "|δ| / |base|, L2 norms"),
            ("ranks", _ranks(delta), "effective rank / largest possible"),
        ):
            if cells:
                yield f"{prefix}{name}", partial(_heat_map, cells, title, label)
        if any(any(each.counts) for each in delta.histograms):
            yield f"{prefix}sizes", partial(_sizes, delta, title)
    if several:
        locations = [delta.location for delta in analysis.deltas]
        names = [f"{number}: {shown(_stem(each))}" for number, each in enumerate(locations, 1)]
        yield "cosines", partial(_cosine_matrix, analysis.pairs, names)
        if any(pair.layers for pair in analysis.pairs):
            yield "agreement", partial(_agreement, analysis.pairs, names)


def _stem(location: str) -> str:
    return location.rpartition("/")[2].removesuffix(".safetensors")


def _norms(delta: DeltaFigures, title: str) -> Figure:
    """Norms per layer by group: of δ, and relative to the base's where that is known."""
    known = any(part.relative is not None for part in delta.layer_groups)
    figure, rows = canvas(2 if known else 1, height_inches=2.9)
    if known:
        _norms_by_group(rows[0], delta, "relative", "|δ| / |base|, L2 norms")
    _norms_by_group(rows[-1], delta, "l2", "|δ|, L2 norm\n(unit of the weights)")
    entitle(figure, title)
    legend_beside(rows[0])
    rows[-1].set_xlabel("layer")
    whole_numbers(rows[-1])
    return figure


def _norms_by_group(axes: Axes, delta: DeltaFigures, figure: str, label: str) -> None:
    """A line for each group; what lies outside of layers is a level of its own."""
    layers = [part.layer for part in delta.layers if part.layer is not None]
    inside = [(part.group, part.layer, getattr(part, figure)) for part in delta.layer_groups]
    for group in GROUPS:
        values = {layer: value for each, layer, value in inside if each == group}
        if any(value is not None for value in values.values()):
            line(axes, layers, [values.get(layer) for layer in layers], _STYLE_OF[group], group)
    outside = [each for each in delta.tensors if each.layer is None and each.elements]
    shares = [value for _, _, value in inside if value]
    for tensor in outside[:_MOST_LEVELS]:
        value, style = getattr(tensor, figure), _STYLE_OF[tensor.group]
        if value is not None:
            name = f"{shown(tensor.module, 18)}, in no layer"
            axes.axhline(value, color=style.colour, dashes=(2, 3), linewidth=1.0, label=name)
            shares.append(value)
    axes.set_ylabel(label)
    _fit_scale(axes, shares)


def _fit_scale(axes: Axes, values: Sequence[float]) -> None:
    """From zero, or logarithmic where the values are far apart."""
    positive = [value for value in values if value > 0]
    if positive and max(positive) / min(positive) > _WIDE:
        axes.set_yscale("log")
        plain_log(axes.yaxis)
    else:
        axes.set_ylim(bottom=0)


def _relatives(delta: DeltaFigures) -> Cells:
    return {
        (cell.layer, cell.module): cell.relative
        for cell in delta.cells
        if cell.layer is not None and cell.module is not None and cell.relative is not None
    }


def _ranks(delta: DeltaFigures) -> Cells:
    """The effective ranks as shares of the largest possible ones; the mean of several tensors."""
    found: dict[tuple[int, str], list[float]] = {}
    for tensor in delta.tensors:
        if tensor.layer is not None and tensor.spectrum is not None:
            share = tensor.spectrum.effective_rank / min(tensor.spectrum.sketch)
            found.setdefault((tensor.layer, tensor.module), []).append(share)
    return {cell: sum(shares) / len(shares) for cell, shares in found.items()}


def _heat_map(cells: Cells, title: str, label: str) -> Figure:
    """Layers from left to right, modules from top to bottom."""
    layers = range(min(layer for layer, _ in cells), max(layer for layer, _ in cells) + 1)
    modules = list(dict.fromkeys(module for _, module in cells))
    modules.sort(key=lambda module: -max(v for (_, each), v in cells.items() if each == module))
    left_out = len(modules[_MOST_ROWS:])
    modules = modules[:_MOST_ROWS]
    values = np.array([[cells.get((layer, each), math.nan) for layer in layers] for each in modules])
    figure, (axes,) = canvas(height_inches=1.1 + 0.26 * max(4, len(modules)))
    positive = values[values > 0]
    wide = len(positive) and positive.max() / positive.min() > _WIDE
    scale = LogNorm(positive.min(), positive.max()) if wide else Normalize(0, np.nanmax(values))
    _paint(axes, figure, values, scale, label, left=layers[0])
    axes.set_yticks(range(len(modules)), [shown(each) for each in modules])
    axes.set_xlabel("layer")
    axes.set_ylabel(f"module ({left_out} more left out)" if left_out else "module")
    entitle(figure, title)
    whole_numbers(axes)
    return figure


def _paint(
    axes: Axes, figure: Figure, values: Floats, scale: Normalize, label: str, *, left: int = 0
) -> None:
    """Coloured cells with a bar that explains them; what is not known is grey."""
    rows, columns = values.shape
    mesh = axes.pcolormesh(
        np.arange(columns + 1) + left - 0.5, np.arange(rows + 1) - 0.5, values, norm=scale,
        cmap=COLOURS, edgecolors="face", linewidth=0.2, rasterized=values.size > _MOST_VECTOR_CELLS,
    )  # fmt: skip
    axes.set_facecolor(MISSING)
    axes.grid(visible=False)
    axes.set_ylim(rows - 0.5, -0.5)
    bar = figure.colorbar(mesh, ax=axes, label=label, pad=0.015)
    if isinstance(scale, LogNorm):
        plain_log(bar.ax.yaxis)


def _sizes(delta: DeltaFigures, title: str) -> Figure:
    """How large elements are: a line for each group, and one for all."""
    figure, (axes,) = canvas()
    for each in delta.histograms:
        total = sum(each.counts) + each.zeros
        if not any(each.counts):
            continue
        style = _ALL if each.group is None else _STYLE_OF[each.group]
        x, y = _outline(each, total)
        name = f"{each.group or 'all'} ({each.zeros / total:.1%} zero)"
        line(axes, x, y, style, name)
    axes.set_xscale("log", base=2)
    powers_of_two(axes.xaxis)
    axes.set_ylim(bottom=0)
    entitle(figure, title)
    axes.set_xlabel("|δ| of an element (unit of the weights), bins of a factor of two")
    axes.set_ylabel("share of elements, %")
    legend_beside(axes)
    return figure


def _outline(histogram: Histogram, total: int) -> tuple[list[float], list[float]]:
    """Each bin's middle and its share in percent, with an empty bin at either side."""
    counts = [0, *histogram.counts, 0]
    middles = [2.0 ** (histogram.first + bin + 0.5 - 1) for bin in range(len(counts))]
    return middles, [100 * count / total for count in counts]


def _cosine_matrix(pairs: Sequence[PairFigures], names: Sequence[str]) -> Figure:
    """The cosine of each delta with each other, written into the cells."""
    values = np.full((len(names), len(names)), math.nan)
    np.fill_diagonal(values, 1.0)
    for pair in pairs:
        if pair.total.cosine is not None:
            values[pair.first, pair.second] = values[pair.second, pair.first] = pair.total.cosine
    figure, (axes,) = canvas(height_inches=1.6 + 0.38 * len(names))
    scale = Normalize(min(0.0, float(np.nanmin(values))), 1.0)
    _paint(axes, figure, values, scale, "cosine")
    numbers = [name.partition(":")[0] for name in names]
    axes.set_xticks(range(len(names)), numbers)
    axes.set_yticks(range(len(names)), list(names))
    axes.set_xlabel("delta")
    entitle(figure, "Cosine of deltas")
    for row, column in np.ndindex(values.shape):
        value = values[row, column]
        text = "?" if math.isnan(value) else f"{value:.2f}"
        bright = not math.isnan(value) and scale(value) < 0.5
        axes.text(column, row, text, ha="center", va="center", color="white" if bright else "black")
    return figure


def _agreement(pairs: Sequence[PairFigures], names: Sequence[str]) -> Figure:
    """Cosine and equal signs per layer: by group for one pair, else a line for each pair."""
    figure, rows = canvas(2, height_inches=2.9)
    lines = list(_lines(pairs))
    for axes, figures, label in (
        (rows[0], "cosine", "cosine"),
        (rows[1], "same_sign", "equal signs,\nshare of both nonzero"),
    ):
        values = []
        for name, style, parts in lines:
            layers = [part.layer for part in parts if part.layer is not None]
            line(axes, layers, [getattr(part, figures) for part in parts], style, name)
            values += [getattr(part, figures) for part in parts]
        known = [value for value in values if value is not None]
        axes.set_ylabel(label)
        axes.set_ylim(min([0.0, *(value - 0.05 for value in known)]), 1.0)
    rows[0].axhline(0.0, color="#737373", linewidth=1.0)
    rows[1].axhline(0.5, color="#737373", linewidth=1.0)
    rows[1].annotate("chance", (1.0, 0.5), xycoords=("axes fraction", "data"),
                     xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)  # fmt: skip
    title = " and ".join(names) if len(names) == 2 else "Pairs of deltas"
    left_out = len(pairs) - _MOST_LINES
    entitle(figure, f"{title} ({left_out} more left out)" if left_out > 0 else title)
    legend_beside(rows[0])
    rows[1].set_xlabel("layer")
    whole_numbers(rows[1])
    return figure


def _lines(pairs: Sequence[PairFigures]) -> Iterator[tuple[str, Style, Sequence[Agreement]]]:
    """What is drawn: name, style, and a figure for each layer."""
    if len(pairs) == 1:
        yield "all", _ALL, pairs[0].layers
        for group in GROUPS:
            parts = [part for part in pairs[0].layer_groups if part.group == group]
            if parts:
                yield group, _STYLE_OF[group], parts
        return
    for pair, style in zip(pairs, STYLES, strict=False):
        yield f"{pair.first + 1} and {pair.second + 1}", style, pair.layers
