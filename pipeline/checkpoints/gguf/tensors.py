"""The tensors of a GGUF file as Hugging Face checkpoints have them: dequantised, rows in their order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.gguf.header import Packed
from pipeline.storage.base import Reader
from pipeline.tensors.dtypes import BF16, F16, F32, Bytes, DType
from pipeline.tensors.fingerprint import digest_bytes

PLAIN = {"F32": F32, "F16": F16, "BF16": BF16}  # ggml's types that are read as they are
_PIECE = 1 << 18  # elements that are dequantised at once: memory beside what is asked for
_SPREAD = 4  # rows that lie further apart than so many times their number are read one by one

Process = Callable[[NDArray[np.float32]], NDArray[Any]]


@dataclass(frozen=True)
class Rows:
    """A tensor of at least two dimensions; see `Derivation`.

    type: ggml's name. order: which of the file's rows each row is, None for the file's own order.
    """

    source: Reader
    packed: Packed
    type: str
    shape: tuple[int, ...]
    order: NDArray[np.int64] | None

    @property
    def dtype(self) -> DType:
        """The file's own, or float32, which dequantisation is done in."""
        return PLAIN.get(self.type, F32)

    @property
    def readers(self) -> Sequence[Reader]:
        """The file's."""
        return [self.source]

    @property
    def recipe(self) -> str:
        """Type, place and order."""
        order = "" if self.order is None else str(digest_bytes(self.order.tobytes()))
        return f"GGUF {self.type} {self.shape} at {self.packed.offset} {order}"

    def fill(self, start: int, out: Bytes) -> None:
        """See `Derivation`. Reads whole rows."""
        columns = self.packed.shape[-1]
        count = len(out) // self.dtype.itemsize
        first, last = start // columns, -(-(start + count) // columns)
        wanted = np.arange(first, last) if self.order is None else self.order[first:last]
        data = self._gather(wanted)
        step = max(1, _PIECE // columns)
        for row in range(0, len(data), step):
            values = read_values(data[row : row + step], self.type)
            begin = (first + row) * columns - start
            skipped = max(0, -begin)
            have = values[skipped : count - begin]
            out.view(self.dtype.bits)[begin + skipped :][: len(have)] = have

    def _gather(self, wanted: NDArray[np.int64]) -> Bytes:
        """The bytes of those rows of the file, a row each."""
        size = self.packed.row_bytes
        low, high = int(wanted.min()), int(wanted.max()) + 1
        if high - low <= _SPREAD * len(wanted):
            span = self._read(low, high).reshape(-1, size)
            return span if self.order is None else span[wanted - low]
        return np.stack([self._read(int(row), int(row) + 1) for row in wanted])

    def _read(self, first: int, last: int) -> Bytes:
        size = self.packed.row_bytes
        data = np.empty((last - first) * size, np.uint8)
        self.source.read_into(self.packed.offset + first * size, data.data)
        return data


@dataclass(frozen=True)
class Vector:
    """A tensor of one dimension, processed as a whole; see `Derivation`. It is one row.

    process: what transformers does to its values.
    """

    source: Reader
    packed: Packed
    type: str
    shape: tuple[int, ...]
    process: Process
    dtype: DType = F32

    @property
    def readers(self) -> Sequence[Reader]:
        """The file's."""
        return [self.source]

    @property
    def recipe(self) -> str:
        """Type and place."""
        return f"GGUF {self.type} {self.shape} at {self.packed.offset}"

    def fill(self, start: int, out: Bytes) -> None:
        """See `Derivation`. Reads the whole tensor."""
        data = np.empty(self.packed.nbytes, np.uint8)
        self.source.read_into(self.packed.offset, data.data)
        made = self.process(dequantised(data.reshape(1, -1), self.type).reshape(-1))
        values = np.ascontiguousarray(made, np.float32).reshape(-1)
        out.view("<f4")[:] = values[start : start + len(out) // 4]


def read_values(rows: Bytes, kind: str) -> NDArray[Any]:
    """The bits of all values of `rows`, in the format that a type is read in."""
    plain = PLAIN.get(kind)
    if plain is not None:
        return np.ascontiguousarray(rows).reshape(-1).view(plain.bits)
    return dequantised(rows, kind).reshape(-1).view(F32.bits)


def dequantised(rows: Bytes, kind: str) -> NDArray[np.float32]:
    """The values of rows of one of ggml's types, in float32. Raises NotImplementedError for some."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    with np.errstate(all="ignore"):  # infinities and NaN are data here
        made: NDArray[np.float32] = dequantize(np.ascontiguousarray(rows), GGMLQuantizationType[kind])
    return made


def row_order(process: Callable[[NDArray[Any]], NDArray[Any]], rows: int) -> NDArray[np.int64] | None:
    """Which row each row of `process`'s result was, if it only puts whole rows in another order.

    It is found by giving it a matrix of numbers. Raises ValueError if it does anything else.
    """
    numbers = np.arange(2 * rows, dtype=np.float64).reshape(rows, 2)
    with np.errstate(all="ignore"):
        made = np.asarray(process(numbers))
    if made.shape[0] != rows or made.shape[-1] != 2 or made.size != 2 * rows:
        raise ValueError("its rows do not stay rows")
    found = made.reshape(rows, 2)
    order = found[:, 0] / 2
    if not (
        np.array_equal(np.sort(order), np.arange(rows)) and np.array_equal(found[:, 1], 2 * order + 1)
    ):
        raise ValueError("its values change")
    as_numbers = order.astype(np.int64)
    return None if np.array_equal(as_numbers, np.arange(rows)) else as_numbers
