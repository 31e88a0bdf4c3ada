"""How every plot looks, and how it becomes the bytes of a file.

Only plots import this module, and they are imported when there is something to draw: it brings
matplotlib. Colours are those of Okabe and Ito, which people with any colour vision tell apart, and
each comes with a line style and a marker of its own, which are still there in grey. What has an order
goes by cividis, which grows lighter evenly, in grey too.

Names come from files: they are shortened, what does not print is escaped, and none is ever read as the
mathematics that matplotlib would see between dollar signs. The same figures give the same bytes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from pipeline.errors import printable

WIDTH_INCHES = 8.0
COLOURS = "cividis"
MISSING = "#d9d9d9"
_DPI = 150
_LONGEST = 26  # characters of a name that is shown
_MARKERS_A_LINE = 20
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SETTINGS: dict[Any, Any] = {
    "text.parse_math": False,
    "text.usetex": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "paramdelta",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "figure.facecolor": "white",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Style:
    """How one line looks."""

    colour: str
    dashes: str | tuple[int, tuple[int, ...]]
    marker: str


STYLES = (
    Style("#0072B2", "-", "o"),
    Style("#D55E00", (0, (5, 2)), "s"),
    Style("#009E73", (0, (1, 1)), "^"),
    Style("#CC79A7", (0, (5, 1, 1, 1)), "D"),
    Style("#000000", "-", "x"),
    Style("#E69F00", (0, (3, 1, 1, 1, 1, 1)), "v"),
    Style("#56B4E9", (0, (8, 2)), "P"),
)


@contextmanager
def settings() -> Iterator[None]:
    """Within this, plots look as they should, whatever the user's own settings."""
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.filterwarnings("ignore", message="Glyph")  # a name may be in any script
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def render(draw: Callable[[], Figure], formats: Sequence[str]) -> Mapping[str, bytes]:
    """The bytes of what `draw` makes, by format: "svg" or "png"."""
    found = {}
    with settings():
        figure = draw()
        for form in formats:
            file = BytesIO()
            metadata: dict[str, Any] = {"Date": None} if form == "svg" else {"Software": None}
            figure.savefig(file, format=form, dpi=_DPI, metadata=metadata)
            found[form] = file.getvalue()
    return found


def canvas(
    rows: int = 1, *, height_inches: float = 3.4, share_x: bool = True
) -> tuple[Figure, list[Axes]]:
    """A new figure with so many plots, one below the other, each of that height."""
    figure = Figure(figsize=(WIDTH_INCHES, height_inches * rows), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=share_x, squeeze=False)
    return figure, [row[0] for row in axes]


def line(axes: Axes, x: Sequence[float], y: Sequence[float | None], style: Style, label: str) -> None:
    """One line; where a value is not known it has a gap."""
    values = [float("nan") if value is None else value for value in y]
    axes.plot(
        x, values, color=style.colour, linestyle=style.dashes, marker=style.marker,
        markevery=max(1, len(x) // _MARKERS_A_LINE), label=label,
    )  # fmt: skip


def entitle(figure: Figure, title: str) -> None:
    """Put `title` above all, from the left edge on: it may be wider than the plot."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")


def whole_numbers(axes: Axes) -> None:
    """Ticks of the x axis at whole numbers only, as many as have room."""
    axes.xaxis.set_major_locator(MaxNLocator(nbins=12, integer=True, min_n_ticks=1))


def plain_log(axis: Axis) -> None:
    """Ticks of a logarithmic axis at 1, 2 and 5 times powers of ten, written as plain numbers."""
    axis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def powers_of_two(axis: Axis) -> None:
    """Ticks of a logarithmic axis at powers of two, written as such."""
    axis.set_major_locator(LogLocator(base=2, numticks=12))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _power_of_two(value)))


def _power_of_two(value: float) -> str:
    return "2" + str(round(math.log2(value))).translate(_RAISED) if value > 0 else ""


def legend_beside(axes: Axes) -> None:
    """The legend to the right of the plot, where it hides nothing."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0.0)


def shown(name: str, longest: int = _LONGEST) -> str:
    """A name as it may be drawn: printable, on one line, and not too long."""
    safe = printable(name).replace("\n", "\\n").replace("\t", "\\t")
    if len(safe) <= longest:
        return safe
    head = longest // 3
    return f"{safe[:head]}…{safe[head + 1 - longest :]}"
