"""What a delta says of a base whose vocabulary had another order of rows than post's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.reordered import reorder
from pipeline.checkpoints.row_order import RowOrder
from pipeline.checkpoints.vocabulary_rows import AlignedBase


@dataclass(frozen=True)
class BaseRows:
    """The order in which base's rows stand against post's, and the tensors that it holds for."""

    order: RowOrder
    tensors: Sequence[str]

    @classmethod
    def of(cls, aligned: AlignedBase) -> BaseRows | None:
        """What is to be said of a base, if it was brought into another order."""
        if aligned.order is None:
            return None
        return cls(aligned.order, tuple(sorted(aligned.tensors)))

    def to_json(self) -> dict[str, Any]:
        """As the manifest has it."""
        order = self.order
        return {"rows": order.rows, "tensors": list(self.tensors), "runs": order.runs}

    @classmethod
    def parse(cls, content: Any, forms: Mapping[str, tuple[Sequence[int], Sequence[int]]]) -> BaseRows:
        """What a manifest says. forms: shape and base_shape of each of its tensors, by name.

        Raises ValueError, TypeError and KeyError.
        """
        order = RowOrder.parse(content)
        names = content["tensors"]
        if type(names) is not list or not names or len(set(names)) != len(names):
            raise ValueError("base_rows holds for no tensors, or for one twice")
        for name in names:
            shape, base_shape = forms[name]
            if not shape or shape[0] != order.count or tuple(shape) != tuple(base_shape):
                raise ValueError(f"{name!r} has not the rows that base_rows says")
        return cls(order, tuple(names))

    def view(self, base: Checkpoint) -> Checkpoint:
        """`base` with its rows in post's order; as it is if it has not the rows that base had."""
        shapes = [base.tensors[name].entry.shape for name in self.tensors if name in base.tensors]
        if len(shapes) != len(self.tensors) or any(s[:1] != (self.order.rows,) for s in shapes):
            return base
        return reorder(base, self.order, self.tensors)


def in_posts_order(base: Checkpoint, rows: BaseRows | None) -> Checkpoint:
    """`base` as a delta with these `rows` was made on it."""
    return base if rows is None else rows.view(base)


def whole_rows(
    name: str, shape: Sequence[int], base_shape: Sequence[int], rows: BaseRows | None
) -> list[tuple[int, int]]:
    """Where a tensor's rows are post's own, for base had none: places as (first, behind the last).

    name: the delta's own. rows: the order of base's rows, if the delta says one.
    """
    absent = rows.order.absent if rows and name in rows.tensors else []
    grown = 0 < len(shape) == len(base_shape) and base_shape[0] < shape[0]
    return [*absent, (base_shape[0], shape[0])] if grown else absent
