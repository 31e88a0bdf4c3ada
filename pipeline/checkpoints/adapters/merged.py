"""One merged weight, made in ranges: W + scaling · B·A, or DoRA's m · (W + scaling · B·A) / |…|.

Source: PEFT 0.21.2, `tuners/lora/layer.py` (`get_delta_weight`, `merge`) and `variants.py` (DoRA). PEFT
multiplies the factors in float32 and adds in the weight's format; here all of it is in float64, and
rounded once, to the weight's format. Rows are made in tiles whose borders depend on the shape alone: so
the same bits come whatever range is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.adapters.weights import Stored
from pipeline.storage.base import Reader
from pipeline.tensors.doubles import Doubles, narrow, widen
from pipeline.tensors.dtypes import F64, Bytes, DType

Floats = NDArray[Any]

_TILE_ELEMENTS = 1 << 17


@dataclass(frozen=True, slots=True)
class Factor:
    """A factor of a product: its rows, or those of its transpose. Small, or read by rows."""

    stored: Stored
    transposed: bool

    @property
    def rows(self) -> int:
        """Rows of the factor."""
        return self.stored.entry.shape[1 if self.transposed else 0]

    @property
    def columns(self) -> int:
        """Columns of the factor."""
        return self.stored.entry.shape[0 if self.transposed else 1]

    def read(self) -> Floats:
        """All of it, in float32 where that is exact."""
        rows = self.stored.entry.shape[0]
        values = read_rows(self.stored, 0, rows)
        exact = values if self.stored.entry.dtype == F64 else values.astype(np.float32)
        return exact.T if self.transposed else exact


@dataclass(eq=False)
class Kept:
    """The factors that are in memory: the last few used, of all tensors of one adapter."""

    room: int = 8
    _lock: Lock = field(default_factory=Lock)
    _held: dict[int, Floats] = field(default_factory=dict)

    def get(self, factor: Factor) -> Floats:
        """The whole factor."""
        with self._lock:
            found = self._held.pop(id(factor), None)
            if found is None:
                while len(self._held) >= self.room:
                    del self._held[next(iter(self._held))]
                found = factor.read()
            self._held[id(factor)] = found
            return found

    def rows(self, factor: Factor, start: int, stop: int) -> Doubles:
        """Some rows of a factor; only of one that lies transposed is all read, and kept."""
        if factor.transposed:
            return self.get(factor)[start:stop].astype(np.float64)
        return read_rows(factor.stored, start, stop)


@dataclass(frozen=True)
class Magnitude:
    """DoRA's magnitudes. by_row: one for each row of the weight, else one for each column."""

    stored: Stored
    by_row: bool


@dataclass(eq=False)
class Merged:
    """A base's weight with an adapter merged into it; see `Derivation`."""

    base: Stored
    left: Factor
    right: Factor
    scaling: float
    magnitude: Magnitude | None
    kept: Kept
    _lock: Lock = field(default_factory=Lock)
    _factors: Doubles | None = None

    @property
    def dtype(self) -> DType:
        """The base's."""
        return self.base.entry.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The base's."""
        return self.base.entry.shape

    @property
    def readers(self) -> Sequence[Reader]:
        """See `Derivation`."""
        return [stored.reader for stored in self._stored]

    @property
    def _stored(self) -> list[Stored]:
        parts = [self.base, self.left.stored, self.right.stored]
        return parts + ([self.magnitude.stored] if self.magnitude else [])

    @property
    def recipe(self) -> str:
        """See `Derivation`."""
        places = [(s.entry.dtype.name, s.entry.shape, s.entry.offset) for s in self._stored]
        kind = (self.left.transposed, self.right.transposed, self.magnitude and self.magnitude.by_row)
        return f"lora 1 {self.scaling!r} {places} {kind}"

    def fill(self, start: int, out: Bytes) -> None:
        """See `Derivation`."""
        columns, size = self.shape[1], self.dtype.itemsize
        end = start + len(out) // size
        for row, total in self._tiles(start // columns, -(-end // columns)):
            values = self._scaled(row, total).reshape(-1)
            begin = max(start, row * columns)
            stop = min(end, row * columns + len(values))
            here = values[begin - row * columns : stop - row * columns]
            narrow(here, out[(begin - start) * size : (stop - start) * size], self.dtype)

    def _tiles(self, first: int, last: int) -> Iterator[tuple[int, Doubles]]:
        """W + scaling · B·A of all tiles that have rows first..last, each with its first row.

        What is read is read at once: each read may be a round trip.
        """
        step = max(1, _TILE_ELEMENTS // self.shape[1])
        begin, end = first // step * step, min(-(-last // step) * step, self.shape[0])
        weights, left = read_bytes(self.base, begin, end), self.kept.rows(self.left, begin, end)
        right = self.kept.get(self.right).astype(np.float64)
        width = self.shape[1] * self.dtype.itemsize
        for row in range(begin, end, step):
            stop = min(row + step, end)
            total = left[row - begin : stop - begin] @ right
            total *= self.scaling
            data = weights[(row - begin) * width : (stop - begin) * width]
            total += widen(data, self.dtype).reshape(total.shape)
            yield row, total

    def _scaled(self, row: int, total: Doubles) -> Doubles:
        """The merged rows of one tile."""
        if self.magnitude is None:
            return total
        with np.errstate(all="ignore"):  # a row of zeros has no direction, in PEFT neither
            if not self.magnitude.by_row:
                total *= self._column_factors()
                return total
            wanted = read_flat(self.magnitude.stored)[row : row + len(total)]
            total *= (wanted / np.linalg.norm(total, axis=1))[:, None]
        return total

    def _column_factors(self) -> Doubles:
        """Magnitude over norm for each column: all rows are read once to know the norms."""
        assert self.magnitude is not None
        with self._lock:
            if self._factors is None:
                squares = np.zeros(self.shape[1])
                some = max(1, 8 * _TILE_ELEMENTS // self.shape[1])
                for row in range(0, self.shape[0], some):
                    for _, part in self._tiles(row, min(row + some, self.shape[0])):
                        squares += np.einsum("ij,ij->j", part, part)
                self._factors = read_flat(self.magnitude.stored) / np.sqrt(squares)
            return self._factors


def read_bytes(stored: Stored, start: int, stop: int) -> Bytes:
    """Rows of a matrix, as they lie there."""
    entry = stored.entry
    width = entry.shape[1] * entry.dtype.itemsize
    data = np.empty((stop - start) * width, np.uint8)
    stored.reader.read_into(entry.offset + start * width, data.data)
    return data


def read_rows(stored: Stored, start: int, stop: int) -> Doubles:
    """Rows of a matrix, as float64."""
    data = read_bytes(stored, start, stop)
    return widen(data, stored.entry.dtype).reshape(stop - start, stored.entry.shape[1])


def read_flat(stored: Stored) -> Doubles:
    """All values of a small tensor, as float64."""
    data = np.empty(stored.entry.nbytes, np.uint8)
    stored.reader.read_into(stored.entry.offset, data.data)
    return widen(data, stored.entry.dtype)
