"""A graph without circles drawn in layers: each node behind all that it was made of.

As Sugiyama has it: layers by the longest path, edges over several layers bent through places of their
own, the order in each layer by the mean of the neighbours' places, a few times back and forth.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from pipeline.analysis.page.lineage import Edge, Lineage, Node

_SWEEPS = 6
_TELEPHONE = 352  # pixels that a screen of 400 leaves
_NARROWEST = 108


@dataclass(frozen=True, slots=True)
class Shape:
    """How large things are, in pixels, and whether layers follow each other downwards."""

    width: int
    height: int
    layer_gap: int
    gap: int
    is_down: bool


ACROSS = Shape(width=172, height=58, layer_gap=44, gap=22, is_down=False)
DOWN = Shape(width=164, height=58, layer_gap=40, gap=12, is_down=True)


@dataclass(frozen=True, slots=True)
class Placed:
    """A node with the place of its upper left corner."""

    node: Node
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """An edge as a path of SVG, with the place of its label."""

    edge: Edge
    path: str
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Drawing:
    """A graph with places for everything, in pixels."""

    nodes: Sequence[Placed]
    edges: Sequence[Drawn]
    width: float
    height: float
    shape: Shape


def draw(lineage: Lineage, shape: Shape) -> Drawing:
    """Give every node and edge of `lineage` its place."""
    layers = _layers(lineage)
    chains = _chains(lineage, layers)
    rows = _order(layers, chains)
    longest = max((len(row) for row in rows), default=0)
    if shape.is_down:
        shape = replace(shape, width=_narrowed(shape, longest))
    across, along = (shape.width, shape.height) if shape.is_down else (shape.height, shape.width)
    size = longest * (across + shape.gap) - shape.gap
    corners: dict[str, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        start = (size - (len(row) * (across + shape.gap) - shape.gap)) / 2
        for index, key in enumerate(row):
            place = (number * (along + shape.layer_gap), start + index * (across + shape.gap))
            corners[key] = place[::-1] if shape.is_down else place
    depth = len(rows) * (along + shape.layer_gap) - shape.layer_gap
    return Drawing(
        nodes=[Placed(node, *corners[key]) for key, node in lineage.nodes.items()],
        edges=[_edge(lineage.edges[ends], chain, corners, shape) for ends, chain in chains.items()],
        width=max(size if shape.is_down else depth, 0),
        height=max(depth if shape.is_down else size, 0),
        shape=shape,
    )


def _narrowed(shape: Shape, count: int) -> int:
    """The width of nodes of which so many stand side by side on a telephone, if they can."""
    room = (_TELEPHONE - (count - 1) * shape.gap) // max(count, 1)
    return min(shape.width, max(_NARROWEST, room))


def _layers(lineage: Lineage) -> dict[str, int]:
    """The layer of each node: behind its sources, and sources close to what was made of them."""
    before: defaultdict[str, list[str]] = defaultdict(list)
    after: defaultdict[str, list[str]] = defaultdict(list)
    for source, target in lineage.edges:
        before[target].append(source)
        after[source].append(target)
    found = dict.fromkeys(lineage.nodes, 0)
    for _ in found:  # as often as the longest path has nodes, at most
        new = {key: max((found[each] + 1 for each in before[key]), default=0) for key in found}
        if new == found:
            break
        found = new
    for key in found:
        if not before[key] and after[key]:
            found[key] = min(found[each] for each in after[key]) - 1
    return found


def _chains(lineage: Lineage, layers: dict[str, int]) -> dict[tuple[str, str], list[str]]:
    """The nodes that each edge goes through, those made for its bends among them."""
    chains = {}
    for number, (source, target) in enumerate(lineage.edges):
        bends = [f"bend {number} {layer}" for layer in range(layers[source] + 1, layers[target])]
        layers.update({key: layers[source] + 1 + index for index, key in enumerate(bends)})
        chains[source, target] = [source, *bends, target]
    return chains


def _order(
    layers: Mapping[str, int], chains: Mapping[tuple[str, str], Sequence[str]]
) -> list[list[str]]:
    """The keys of each layer, put so that few edges cross."""
    rows: list[list[str]] = [[] for _ in range(max(layers.values(), default=-1) + 1)]
    for key, layer in layers.items():
        rows[layer].append(key)
    before: defaultdict[str, list[str]] = defaultdict(list)
    after: defaultdict[str, list[str]] = defaultdict(list)
    for chain in chains.values():
        for source, target in pairwise(chain):
            before[target].append(source)
            after[source].append(target)
    for sweep in range(_SWEEPS):
        near = after if sweep % 2 else before
        for row in reversed(rows) if sweep % 2 else rows:
            place = {key: index / len(each) for each in rows for index, key in enumerate(each, 1)}
            means = {key: _mean([place[other] for other in near[key]], place[key]) for key in row}
            row.sort(key=means.__getitem__)
    return rows


def _mean(places: Sequence[float], own: float) -> float:
    return sum(places) / len(places) if places else own


def _edge(
    edge: Edge, chain: Sequence[str], corners: Mapping[str, tuple[float, float]], shape: Shape
) -> Drawn:
    """A curve from the end of one node through all bends to the beginning of another."""
    wide, high = shape.width, shape.height
    path, last = "", (0.0, 0.0)
    for index, key in enumerate(chain):
        x, y = corners[key]
        start = (x + wide / 2, y) if shape.is_down else (x, y + high / 2)
        end = (x + wide / 2, y + high) if shape.is_down else (x + wide, y + high / 2)
        if index:
            path += _curve(last, start, shape)
            if index < len(chain) - 1:
                path += f"L{end[0]:g} {end[1]:g}"
        else:
            path = f"M{end[0]:g} {end[1]:g}"
        middle = ((last[0] + start[0]) / 2, (last[1] + start[1]) / 2)
        last = end
    return Drawn(edge, path, *middle)


def _curve(start: tuple[float, float], end: tuple[float, float], shape: Shape) -> str:
    """A curve that leaves and arrives straight."""
    (x1, y1), (x2, y2) = start, end
    if shape.is_down:
        half = (y1 + y2) / 2
        return f"C{x1:g} {half:g} {x2:g} {half:g} {x2:g} {y2:g}"
    half = (x1 + x2) / 2
    return f"C{half:g} {y1:g} {half:g} {y2:g} {x2:g} {y2:g}"
