"""The base whose norms are measured beside deltas: seen as they were made on theirs, or why not."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.analysis.tables import Item
from pipeline.checkpoints.alignment import show
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.deltas.base_rows import in_posts_order
from pipeline.deltas.delta import Delta
from pipeline.deltas.names import as_side_of
from pipeline.errors import Mismatch


def as_seen(base: Checkpoint, deltas: Sequence[Delta]) -> Checkpoint:
    """`base` under the names of the deltas, its rows in the order in which they were subtracted.

    Raises Mismatch if the deltas' bases stood in several orders.
    """
    first, *others = deltas
    rows = first.manifest.base_rows
    if odd := [each.location for each in others if each.manifest.base_rows != rows]:
        raise Mismatch(
            [
                f"the base of {location} stood in another order than that of {first.location}"
                for location in odd
            ],
            where=base.location,
            hint="measure the base with one delta at a time, or leave out --base",
            noun="delta",
        )
    return in_posts_order(as_side_of(first, base, is_base=True), rows)


def problems_of(item: Item, deltas: Sequence[Delta]) -> list[str]:
    """Why the base's tensor is none that the deltas' could be measured against."""
    found = []
    for number, delta in enumerate(deltas):
        stored = item.stored[number]
        if stored is None or not item.counted(number):
            continue
        wanted = stored.record.base_shape
        rows = delta.manifest.base_rows
        if item.base is None:
            found.append(f"{item.name} is missing; it is in {delta.location}")
        elif rows and item.name in rows.tensors and item.base.shape != wanted:
            text = f"has {item.base.shape[0]} rows, not the {rows.order.rows} of the base of"
            found.append(f"{item.name} {text} {delta.location}, whose order it knows")
        elif (item.base.shape[1:], item.base.dtype.is_float) != (wanted[1:], True) or (
            item.base.shape[:1] < wanted[:1]
        ):
            shape = f"{show(item.base.shape)} {item.base.dtype}"
            found.append(f"{item.name} is {shape}, not {show(wanted)} as for {delta.location}")
    return found
