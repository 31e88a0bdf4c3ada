"""The packed bytes of what rounding lost in one chunk (see `pipeline.tensors.arithmetic`).

Nothing at all where nothing was lost; otherwise four lists, each an encoded chunk (`pipeline.codecs`)
with its size before it:

    u32     R, remainders
    u32     X, exceptions
    u32 + ...   gaps of the remainders' positions, R elements of 4 bytes
    u32 + ...   the remainders, R elements as wide as the arithmetic (4 or 8 bytes)
    u32 + ...   gaps of the exceptions' positions, X elements of 4 bytes
    u32 + ...   the exceptions, X elements as wide as post's format

A gap is how many elements lie between a position and the one before it, or the chunk's start. Remainders
are signed: 0, -1, 1, -2, 2, ... are written as 0, 1, 2, 3, 4, ..., so that small ones have zeros above.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.codecs.chunks import ChunkCodec, encoded_bound
from pipeline.errors import CorruptFile
from pipeline.tensors.arithmetic import Corrections
from pipeline.tensors.dtypes import Bytes, DType

_COUNTS = struct.Struct("<II")
_SIZE = struct.Struct("<I")


def corrections_bound(corrections: Corrections) -> int:
    """The most bytes that `pack_corrections` writes."""
    lists = (corrections.rest_at, corrections.rest, corrections.lost_at, corrections.lost)
    return _COUNTS.size + sum(_SIZE.size + encoded_bound(each.nbytes) for each in lists)


def pack_corrections(corrections: Corrections, out: Bytes, codec: ChunkCodec) -> int:
    """Write the corrections into `out`, of at least `corrections_bound` bytes; returns their size."""
    rests, losses = len(corrections.rest_at), len(corrections.lost_at)
    if not rests and not losses:
        return 0
    _COUNTS.pack_into(out.data, 0, rests, losses)
    at = _COUNTS.size
    for values in _lists(corrections):
        data = np.ascontiguousarray(values).view(np.uint8)
        size = codec.encode(data, values.itemsize, out[at + _SIZE.size :])
        _SIZE.pack_into(out.data, at, size)
        at += _SIZE.size + size
    return at


def _lists(corrections: Corrections) -> Iterator[NDArray[Any]]:
    """The four lists, each made when it is wanted: where everything is lost they are large."""
    yield _gaps(corrections.rest_at)
    yield _zigzag(corrections.rest)
    yield _gaps(corrections.lost_at)
    yield corrections.lost


def unpack_corrections(
    data: Bytes, *, elements: int, width: DType, post: DType, codec: ChunkCodec, where: str
) -> Corrections:
    """The corrections packed in `data`, for a chunk of `elements`; arithmetic in `width`.

    Raises CorruptFile if they do not fit together, or a position lies outside the chunk.
    """
    reader = _Reader(data, codec, where)
    rests, losses = reader.counts(elements)
    unsigned = width.bits
    corrections = Corrections(
        _positions(reader.list(rests, np.dtype("<u4")), elements, where),
        _signed(reader.list(rests, unsigned)),
        _positions(reader.list(losses, np.dtype("<u4")), elements, where),
        reader.list(losses, post.bits),
    )
    reader.finish()
    return corrections


class _Reader:
    """Takes one list after the other from packed corrections."""

    def __init__(self, data: Bytes, codec: ChunkCodec, where: str) -> None:
        self._data, self._codec, self._where = data, codec, where
        self._at = 0

    def counts(self, elements: int) -> tuple[int, int]:
        """Remainders and exceptions, of each at most one per element."""
        if not len(self._data):
            return 0, 0
        if len(self._data) < _COUNTS.size:
            raise CorruptFile("corrections end within their counts", where=self._where)
        rests, losses = _COUNTS.unpack_from(self._data.data)
        if rests > elements or losses > elements or not rests + losses:
            what = f"{rests} + {losses} corrections for {elements} elements"
            raise CorruptFile(what, where=self._where)
        self._at = _COUNTS.size
        return rests, losses

    def list(self, count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """The next list, of `count` elements."""
        values = np.empty(count, dtype)
        if not len(self._data):
            return values
        begin = self._at + _SIZE.size
        if begin > len(self._data):
            raise CorruptFile("corrections end between their lists", where=self._where)
        (size,) = _SIZE.unpack_from(self._data.data, self._at)
        self._at = begin + size
        if self._at > len(self._data):
            raise CorruptFile("a list of corrections is said to be too long", where=self._where)
        payload = self._data[begin : self._at]
        self._codec.decode(payload, dtype.itemsize, values.view(np.uint8), where=self._where)
        return values

    def finish(self) -> None:
        """Nothing may be left."""
        if self._at != len(self._data):
            raise CorruptFile("bytes follow the corrections", where=self._where)


def _gaps(positions: NDArray[np.uint32]) -> NDArray[np.uint32]:
    gaps = positions.astype("<u4")
    gaps[1:] -= positions[:-1] + np.uint32(1)
    return gaps


def _positions(gaps: NDArray[np.uint32], elements: int, where: str) -> NDArray[np.uint32]:
    """Ascending by construction; in 64 bits, in which the sum of a chunk's gaps can't overflow."""
    positions = gaps.astype(np.int64)
    positions += 1
    np.cumsum(positions, out=positions)
    positions -= 1
    if len(positions) and positions[-1] >= elements:
        raise CorruptFile("a correction lies outside its chunk", where=where)
    return positions.astype(np.uint32)


def _zigzag(signed: NDArray[Any]) -> NDArray[Any]:
    bits = 8 * signed.itemsize
    return ((signed << 1) ^ (signed >> (bits - 1))).view(f"<u{signed.itemsize}")


def _signed(zigzag: NDArray[Any]) -> NDArray[Any]:
    signed: NDArray[Any] = zigzag.view(f"<i{zigzag.itemsize}")
    magnitudes: NDArray[Any] = (zigzag >> zigzag.dtype.type(1)).view(signed.dtype)
    signs = signed & 1
    np.negative(signs, out=signs)
    magnitudes ^= signs
    return magnitudes
