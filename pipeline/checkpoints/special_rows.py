"""Special tokens whose rows were never trained: a model that must say them can't, and never stops.

A row looks untrained if its norm is at most a thousandth of an ordinary row's (the median of a few,
evenly spread), or if it has the very bits of another special token's row: a filler that both were
given. The first takes in what unsloth calls untrained, rows of at most 1e-16 (`fix_untrained_tokens`,
unsloth issue 915), but for any scale of weights; the second the reserved tokens of which torchtune's
issue 2429 tells. Only these rows are read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.tensors.arithmetic import Operand
from pipeline.tensors.dtypes import Bytes
from pipeline.tensors.norms import measure_into

MAX_ROWS = 1024  # that are read, of the first special tokens
_SPREAD = 9  # ordinary rows whose median norm is taken
_SMALL = 1e-3


def untrained_rows(model: Checkpoint, names: Sequence[str], rows: Mapping[str, int]) -> tuple[str, ...]:
    """A line for each token of `rows` (its row, by token) that looks untrained in any of `names`."""
    wanted = dict(sorted(rows.items(), key=lambda item: item[1])[:MAX_ROWS])
    lines: dict[str, None] = {}
    for name in names if wanted else ():
        if model.tensors[name].entry.dtype.is_float:
            lines |= dict.fromkeys(_untrained(model, name, wanted))
    return tuple(lines)


def _untrained(model: Checkpoint, name: str, rows: Mapping[str, int]) -> list[str]:
    entry = model.tensors[name].entry
    special = set(rows.values())
    spread = {entry.shape[0] * n // _SPREAD for n in range(_SPREAD)} - special
    read = _read_rows(model, name, sorted(special | spread))
    norms = {row: _norm(Operand(data, entry.dtype)) for row, data in read.items()}
    usual = sorted(norms[row] for row in spread) or [0.0]
    limit = _SMALL * usual[len(usual) // 2]
    bits = {token: read[row].tobytes() for token, row in rows.items()}
    counts: dict[bytes, int] = {}
    for token, row in rows.items():
        if row in special:
            counts[bits[token]] = counts.get(bits[token], 0) + 1
    found = []
    for token, row in rows.items():
        if norms[row] <= limit:
            found.append(f"{token!r} in {name}: near zero")
        elif counts[bits[token]] > 1:
            found.append(f"{token!r} in {name}: as {counts[bits[token]] - 1} other special tokens")
    return found


def _read_rows(model: Checkpoint, name: str, rows: Sequence[int]) -> dict[int, Bytes]:
    """The bytes of some rows, neighbours by one read."""
    source = model.tensors[name]
    entry, reader = source.entry, model.readers[source.file]
    size = math.prod(entry.shape[1:]) * entry.dtype.itemsize
    found: dict[int, Bytes] = {}
    start = 0
    for stop in range(1, len(rows) + 1):
        if stop == len(rows) or rows[stop] != rows[stop - 1] + 1:
            run = rows[start:stop]
            data = np.empty(len(run) * size, np.uint8)
            reader.read_into(entry.offset + run[0] * size, data.data)
            found |= {row: data[n * size : (n + 1) * size] for n, row in enumerate(run)}
            start = stop
    return found


def _norm(row: Operand) -> float:
    sums = np.zeros(3)
    measure_into(sums, row, Operand(row.data[:0], row.dtype))
    return math.sqrt(sums[0]) if math.isfinite(sums[0]) else math.inf
