"""How much each layer of a model changed, by kind of tensor: the points of a chart."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.analysis.naming import seat_of
from pipeline.analysis.page.facts import Tensor

_SHOWN = {"mlp": "MLP"}
_STEPS = (1, 2, 2.5, 5, 10)
_TICKS = 4


@dataclass(frozen=True, slots=True)
class Line:
    """One kind of tensor: points by layer, each in percent of the chart's width and height."""

    kind: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """Relative change by layer. ticks: heights in percent, with labels; marks: the same of layers.

    largest: the kind and the layer that changed most, and by how much.
    """

    lines: Sequence[Line]
    ticks: Sequence[tuple[float, str]]
    marks: Sequence[tuple[float, str]]
    largest: tuple[str, int, float]


def by_layer(tensors: Sequence[Tensor]) -> Chart | None:
    """The chart of `tensors`; None if they are not in layers, or their norms are not known."""
    sums: defaultdict[tuple[str, int], list[float]] = defaultdict(lambda: [0.0, 0.0])
    for tensor in tensors:
        seat = seat_of(tensor.name)
        if seat.layer is not None and tensor.base_l2 and tensor.delta_l2 is not None:
            cell = sums[_SHOWN.get(seat.group, seat.group), seat.layer]
            cell[0] = math.hypot(cell[0], tensor.delta_l2)
            cell[1] = math.hypot(cell[1], tensor.base_l2)
    values = {key: change / base for key, (change, base) in sums.items() if math.isfinite(change / base)}
    layers = sorted({layer for _, layer in values})
    top = max(values.values(), default=0.0)
    if len(layers) < 2 or top <= 0:
        return None
    step = _step(top)
    count = math.ceil(top / step - 1e-9)
    across = {layer: 100 * n / (len(layers) - 1) for n, layer in enumerate(layers)}
    lines = [
        Line(
            kind,
            [(across[n], _up(values[kind, n], count * step)) for n in layers if (kind, n) in values],
        )
        for kind in dict.fromkeys(kind for kind, _ in sorted(values))
    ]
    largest = max(values, key=values.__getitem__)
    every = max(1, math.ceil(len(layers) / 8))
    return Chart(
        lines=lines,
        ticks=[(_up(n * step, count * step), _percent(n * step)) for n in range(count + 1)],
        marks=[(across[n], str(n)) for n in layers[::every]],
        largest=(*largest, values[largest]),
    )


def _step(top: float) -> float:
    """A round distance, so that a few of them reach `top`."""
    unit = 10.0 ** math.floor(math.log10(top / _TICKS))
    return next(step * unit for step in (*_STEPS, 20) if step * unit * _TICKS >= top * (1 - 1e-9))


def _up(value: float, top: float) -> float:
    """Percent from the top of the chart."""
    return 100 - 100 * value / top


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %" if value else "0"
