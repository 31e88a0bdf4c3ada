"""The plain form of what a stored chunk lost: a few arrays one after another."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CorruptFile
from pipeline.tensors.arithmetic import Corrections
from pipeline.tensors.dtypes import Bytes, DType

_COUNTS = struct.Struct("<2I")
_NONE = np.empty(0, np.uint32)
NO_CORRECTIONS = Corrections(_NONE, np.empty(0, np.int32), _NONE, _NONE)


def pack(corrections: Corrections) -> bytes:
    """The bytes of one chunk's corrections."""
    return b"".join(parts_of(corrections))


def parts_of(corrections: Corrections) -> tuple[bytes | memoryview, ...]:
    """The parts that make the bytes of one chunk's corrections; none at all if nothing was lost.

    Two little-endian uint32, how many remainders and how many exceptions; the remainders' positions
    (uint32) and values (signed, as wide as the arithmetic); the exceptions' positions (uint32) and
    post's bits (as wide as post's format).
    """
    rests, losses = len(corrections.rest_at), len(corrections.lost_at)
    if not rests and not losses:
        return ()
    lists = (corrections.rest_at, corrections.rest, corrections.lost_at, corrections.lost)
    return (_COUNTS.pack(rests, losses), *(part.data.cast("B") for part in lists if part.nbytes))


def packed_bound(elements: int) -> int:
    """The most bytes that the corrections of a chunk take, in either form of the file."""
    return 64 + elements * 2 * (4 + 8)


def unpack(data: Bytes, *, elements: int, width: DType, post: DType, where: str) -> Corrections:
    """The corrections packed in `data`, for a chunk of `elements`; arithmetic in `width`.

    Raises CorruptFile if the counts do not match the size, or positions lie outside the chunk or are
    not in order.
    """
    signed = np.dtype(f"<i{width.itemsize}")
    if not len(data):
        return Corrections(_NONE, np.empty(0, signed), _NONE, np.empty(0, post.bits))
    raw = bytearray(data)  # what lies in bytes kernels would take longer to find
    rests, losses = _COUNTS.unpack_from(raw) if len(raw) >= _COUNTS.size else (0, 0)
    size = _COUNTS.size + rests * (4 + signed.itemsize) + losses * (4 + post.itemsize)
    if size != len(raw) or not rests + losses:
        raise CorruptFile(f"{len(raw)} bytes of corrections where {size} belong", where=where)
    at = _COUNTS.size

    def take(dtype: Any, count: int) -> NDArray[Any]:
        nonlocal at
        found = np.frombuffer(raw, dtype, count, at)
        at += found.nbytes
        return found

    corrections = Corrections(
        take("<u4", rests), take(signed, rests), take("<u4", losses), take(post.bits, losses)
    )
    for positions in (corrections.rest_at, corrections.lost_at):
        if not len(positions):
            continue
        if (positions[1:] <= positions[:-1]).any():
            raise CorruptFile("corrections are not in order", where=where)
        if positions[-1] >= elements:
            raise CorruptFile("a correction lies outside its chunk", where=where)
    return corrections
