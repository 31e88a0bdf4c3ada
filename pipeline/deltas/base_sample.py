"""A few values of the base that a delta keeps, so that another base can be told from a stranger.

Of some matrices a run of elements, of each router some columns of all rows. The manifest holds them in
base64, in base's own formats; `docs/delta-format.md` says which they are. They are optional: deltas that
were made before have none.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

from pipeline.checkpoints.experts import MOST_EXPERTS
from pipeline.tensors.dtypes import DType

MOST_TENSORS = 64  # of which a run is kept
RUN = 256  # elements of a run
COLUMNS = 32  # of a router


class Form(Protocol):
    """What a sample must know of a tensor of its delta."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def base_shape(self) -> tuple[int, ...]:
        """Its shape in base."""

    @property
    def base(self) -> DType:
        """Its format in base."""

    @property
    def carried(self) -> bool:
        """Whether it is not float."""


@dataclass(frozen=True, slots=True)
class BaseSample:
    """Values of a base by the names of its tensors, as bytes in its formats. columns: row by row."""

    runs: Mapping[str, bytes]
    columns: Mapping[str, bytes]

    def to_json(self) -> dict[str, dict[str, str]]:
        """The sample as a manifest has it."""
        return {
            kind: {name: base64.b64encode(data).decode() for name, data in values.items()}
            for kind, values in (("runs", self.runs), ("columns", self.columns))
        }

    @classmethod
    def parse(cls, content: Any, tensors: Iterable[Form]) -> BaseSample | None:
        """The sample that a manifest with `tensors` has; None if it has none.

        Raises ValueError, TypeError or KeyError if it is not one of these tensors.
        """
        if content is None:
            return None
        forms = {form.name: form for form in tensors}
        runs, columns = (_parse(content[kind], forms, size) for kind, size in _SIZES.items())
        if len(runs) > MOST_TENSORS:
            raise ValueError(f"the base's sample has {len(runs)} runs")
        return cls(runs, columns)


def _parse(content: Any, forms: Mapping[str, Form], size: Callable[[Form], int]) -> dict[str, bytes]:
    if type(content) is not dict:
        raise ValueError("the base's sample is no object")
    found = {}
    for name, text in content.items():
        form = forms[name]
        wanted = size(form) * form.base.itemsize
        if form.carried or not wanted or type(text) is not str or len(text) != -(-wanted // 3) * 4:
            raise ValueError(f"the base's sample of {name!r} is not of its size")
        found[name] = base64.b64decode(text, validate=True)
        if len(found[name]) != wanted:
            raise ValueError(f"the base's sample of {name!r} is not of its size")
    return found


def run_size(form: Form) -> int:
    """Elements of a tensor's run."""
    return min(RUN, prod(form.base_shape))


def columns_size(form: Form) -> int:
    """Elements of a router's columns. Raises ValueError if it can be none."""
    if len(form.base_shape) != 2 or form.base_shape[0] > MOST_EXPERTS:
        raise ValueError(f"{form.name!r} is no router")
    return form.base_shape[0] * min(COLUMNS, form.base_shape[1])


_SIZES = {"runs": run_size, "columns": columns_size}
