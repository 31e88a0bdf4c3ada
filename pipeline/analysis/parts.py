"""Tensors put together: by layer, by group, by both, and by layer and module."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipeline.analysis.report import GROUPS, Group, Part, TensorFigures

Key = tuple[int | None, Group | None, str | None]  # layer, group, module; None is any
ANY: Key = (None, None, None)

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Split(Generic[Row]):
    """Rows by what they have in common, each with its key; in the order of layers and groups."""

    groups: Sequence[tuple[Key, Sequence[Row]]]
    layers: Sequence[tuple[Key, Sequence[Row]]]
    layer_groups: Sequence[tuple[Key, Sequence[Row]]]
    cells: Sequence[tuple[Key, Sequence[Row]]]

    @classmethod
    def of(cls, rows: Sequence[Row], key: Callable[[Row], Key]) -> Split[Row]:
        """`rows` by their `key`, which says all three."""
        inside = [row for row in rows if key(row)[0] is not None]
        return cls(
            groups=_by(rows, lambda row: (None, key(row)[1], None)),
            layers=_by(inside, lambda row: (key(row)[0], None, None)),
            layer_groups=_by(inside, lambda row: (*key(row)[:2], None)),
            cells=_by(inside, key),
        )


def _by(rows: Iterable[Row], key: Callable[[Row], Key]) -> list[tuple[Key, Sequence[Row]]]:
    found: dict[Key, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return sorted(found.items(), key=lambda item: _order(item[0]))


def _order(key: Key) -> tuple[int, int]:
    layer, group, _ = key
    return -1 if layer is None else layer, GROUPS.index(group) if group else -1


def part_of(key: Key, tensors: Sequence[TensorFigures]) -> Part:
    """The sum of `tensors`, as far as they are counted; what is not known of one is not of the sum."""
    counted = [tensor for tensor in tensors if tensor.elements]
    elements = sum(tensor.elements for tensor in counted)
    l2 = norm([tensor.l2 for tensor in counted])
    base_l2 = norm([tensor.base_l2 for tensor in counted])
    changed = sum((tensor.changed or 0.0) * tensor.elements for tensor in counted)
    return Part(
        *key,
        tensors=len(counted),
        elements=elements,
        changed=round(changed) / elements if elements else None,
        l2=l2,
        base_l2=base_l2,
        relative=ratio(l2, base_l2),
        max=max((tensor.max or 0.0 for tensor in counted), default=None),
    )


def norm(norms: Sequence[float | None]) -> float | None:
    """The norm of parts whose norms these are; None if there are none, or one is not known."""
    known = [each for each in norms if each is not None]
    total = math.hypot(*known)
    return total if known and len(known) == len(norms) and math.isfinite(total) else None


def ratio(part: float | None, whole: float | None) -> float | None:
    """`part` / `whole`, None where that is no finite number."""
    if part is None or not whole:
        return None
    found = part / whole
    return found if math.isfinite(found) else None


def total_of(values: Sequence[float]) -> float | None:
    """The exact sum, rounded once; None if it is not finite."""
    try:
        total = math.fsum(values)
    except (OverflowError, ValueError):
        return None
    return total if math.isfinite(total) else None


def root_of(squares: Sequence[float]) -> float | None:
    """The square root of a sum; None if that is not finite."""
    total = total_of(squares)
    return None if total is None else math.sqrt(total)
