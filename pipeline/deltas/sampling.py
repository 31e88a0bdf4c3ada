"""Which values of a base a delta keeps as its sample, and how they are read, of another base too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import TypeVar

import numpy as np

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.experts import count_experts, is_router
from pipeline.deltas.base_sample import COLUMNS, MOST_TENSORS, BaseSample, run_size
from pipeline.deltas.manifest import TensorForm
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.tensors.doubles import Doubles, widen
from pipeline.tensors.dtypes import Bytes, DType

_LEAST = 1 << 13  # elements of a tensor that tells: norms, biases and the smallest matrices do not
_ROUTER_ELEMENTS = 1 << 21  # of a router, which is read as a whole: 256 experts × 8192
_AT_ONCE = 8  # reads under way: each is small, and a round trip where the model is remote

Found = TypeVar("Found")


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


def read_run(model: Checkpoint, form: TensorForm) -> Bytes:
    """The run of a tensor of `model`, as bytes: in the middle of its first chunk."""
    size = run_size(form)
    start = (min(CHUNK_ELEMENTS, prod(form.base_shape)) - size) // 2
    return read_values(model, form.name, start, size)


def read_columns(model: Checkpoint, form: TensorForm) -> Bytes:
    """The columns of a router of `model`, as bytes: those in the middle of all rows."""
    rows, width = form.base_shape
    dtype = model.tensors[form.name].entry.dtype
    bits = read_values(model, form.name, 0, rows * width).view(dtype.bits).reshape(rows, width)
    kept = min(COLUMNS, width)
    start = (width - kept) // 2
    return np.ascontiguousarray(bits[:, start : start + kept]).reshape(-1).view(np.uint8)


def values_of(data: bytes | Bytes, dtype: DType) -> Doubles:
    """The bytes of a sample as values."""
    return widen(np.frombuffer(data, np.uint8), dtype)


def at_once(read: Callable[[TensorForm], Found], forms: Sequence[TensorForm]) -> list[Found]:
    """`read` of each of `forms`, several at a time."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(read, forms))


def read_values(model: Checkpoint, name: str, start: int, count: int) -> Bytes:
    """At most `count` elements of a tensor from number `start` on, as bytes; empty behind its end."""
    data = np.empty(0, np.uint8)
    span = model.input(name).span(start, start + count)
    if span is not None:
        data = np.empty(span.nbytes, np.uint8)
        model.readers[span.reader].read_into(span.offset, data.data)
    return data
