"""A few values of the base that a delta keeps, so that another base can be told from a stranger.

Of some matrices a run of elements, of each router some columns of all rows. The manifest holds them in
base64, in base's own formats; `docs/delta-format.md` says which they are. They are optional: deltas that
were made before have none.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.experts import MOST_EXPERTS, count_experts, is_router
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS, Operand
from pipeline.tensors.dtypes import DType
from pipeline.tensors.likeness import Values, wide

if TYPE_CHECKING:
    from pipeline.deltas.manifest import TensorForm

MOST_TENSORS = 64  # of which a run is kept
RUN = 256  # elements of a run
COLUMNS = 32  # of a router
_LEAST = 1 << 13  # elements of a tensor that tells: norms, biases and the smallest matrices do not
_ROUTER_ELEMENTS = 1 << 21  # of a router, which is read as a whole: 256 experts × 8192
_AT_ONCE = 8  # reads under way: each is small, and a round trip where the model is remote

Found = TypeVar("Found")


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
    def parse(cls, content: Any, tensors: Iterable[TensorForm]) -> BaseSample | None:
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


def _parse(
    content: Any, forms: Mapping[str, TensorForm], size: Callable[[TensorForm], int]
) -> dict[str, bytes]:
    if type(content) is not dict:
        raise ValueError("the base's sample is no object")
    found = {}
    for name, text in content.items():
        form = forms[name]
        wanted = size(form) * form.base.itemsize
        if form.carried or type(text) is not str or len(text) != -(-wanted // 3) * 4:
            raise ValueError(f"the base's sample of {name!r} is not of its size")
        found[name] = base64.b64decode(text, validate=True)
        if len(found[name]) != wanted:
            raise ValueError(f"the base's sample of {name!r} is not of its size")
    return found


def _run_size(form: TensorForm) -> int:
    return min(RUN, prod(form.base_shape))


def _columns_size(form: TensorForm) -> int:
    if len(form.base_shape) != 2 or form.base_shape[0] > MOST_EXPERTS:
        raise ValueError(f"{form.name!r} is no router")
    return form.base_shape[0] * min(COLUMNS, form.base_shape[1])


_SIZES = {"runs": _run_size, "columns": _columns_size}


def take_sample(base: Checkpoint, forms: Iterable[TensorForm]) -> BaseSample | None:
    """The sample of `base` for a delta of `forms`: a few small reads. None if no tensor tells."""
    forms = list(forms)
    runs, columns = choose_runs(base, forms), choose_routers(base, forms)
    if not runs and not columns:
        return None
    found = at_once(lambda form: read_run(base, form), runs)
    routers = at_once(lambda form: read_columns(base, form), columns)
    return BaseSample(
        {form.name: data.tobytes() for form, data in zip(runs, found, strict=True)},
        {form.name: data.tobytes() for form, data in zip(columns, routers, strict=True)},
    )


def choose_runs(base: Checkpoint, forms: Iterable[TensorForm]) -> list[TensorForm]:
    """The tensors of which a run is kept: matrices, evenly spread over all by name.

    None that has a row for each token: a vocabulary may be put into another order.
    """
    telling = sorted(
        (
            form
            for form in forms
            if not form.carried
            and len(form.base_shape) > 1
            and prod(form.base_shape) >= _LEAST
            and form.base_shape[0] != base.vocab_size
        ),
        key=lambda form: form.name,
    )
    count = min(MOST_TENSORS, len(telling))
    return [telling[number * len(telling) // count] for number in range(count)]


def choose_routers(base: Checkpoint, forms: Iterable[TensorForm]) -> list[TensorForm]:
    """The routers among the tensors, in the order of their names."""
    experts = count_experts(base.config)
    routers = [
        form
        for form in forms
        if not form.carried
        and is_router(form.name, form.base_shape, experts)
        and prod(form.base_shape) <= _ROUTER_ELEMENTS
    ]
    return sorted(routers, key=lambda form: form.name)


def read_run(model: Checkpoint, form: TensorForm) -> Any:
    """The run of a tensor of `model`, as bytes: in the middle of its first chunk."""
    size = _run_size(form)
    start = (min(CHUNK_ELEMENTS, prod(form.base_shape)) - size) // 2
    return _read(model, form.name, start, size)


def read_columns(model: Checkpoint, form: TensorForm) -> Any:
    """The columns of a router of `model`, as bytes: those in the middle of all rows."""
    rows, width = form.base_shape
    dtype = model.tensors[form.name].entry.dtype
    bits = _read(model, form.name, 0, rows * width).view(dtype.bits).reshape(rows, width)
    kept = min(COLUMNS, width)
    start = (width - kept) // 2
    return np.ascontiguousarray(bits[:, start : start + kept]).reshape(-1).view(np.uint8)


def values_of(data: bytes | Any, dtype: DType) -> Values:
    """The bytes of a sample as values."""
    return wide(Operand(np.frombuffer(data, np.uint8), dtype))


def at_once(read: Callable[[TensorForm], Found], forms: Sequence[TensorForm]) -> list[Found]:
    """`read` of each of `forms`, several at a time."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(read, forms))


def _read(model: Checkpoint, name: str, start: int, count: int) -> Any:
    data = np.empty(0, np.uint8)
    span = model.input(name).span(start, start + count)
    if span is not None:
        data = np.empty(span.nbytes, np.uint8)
        model.readers[span.reader].read_into(span.offset, data.data)
    return data
