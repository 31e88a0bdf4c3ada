"""The delta file: names, and the packing of what a stored chunk lost. Version 1.

A delta is one safetensors file. Its float tensors bear the post checkpoint's names and hold post - base
rounded to the storage format, so any safetensors reader can add them. What makes the delta exact and
provable lies behind them, in byte tensors whose names begin with `RESERVED`:

    corrections     per chunk, in the order of chunks: what rounding lost (see `pack`)
    index           little-endian uint64, one more than there are chunks: where in `corrections` each
                    chunk's bytes begin, the last one their end
    digests         per chunk three BLAKE3 digests of 32 bytes: base, post, stored
    file.NAME       a companion of the post model
    carried.NAME    a tensor that is not float: post's own values
    manifest        JSON: identities, and a record per tensor (see `pipeline.deltas.manifest`)

Chunks are counted through the tensors in the order of their bytes, `CHUNK_ELEMENTS` elements each.
`__metadata__` says the format's version and the manifest's digest. It is small and its size is known
beforehand, so everything else has its place before a byte is written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import CorruptFile
from pipeline.tensors.arithmetic import Corrections
from pipeline.tensors.dtypes import Bytes, DType

FORMAT_VERSION = 1
RESERVED = "__paramdelta__."
CORRECTIONS = RESERVED + "corrections"
INDEX = RESERVED + "index"
DIGESTS = RESERVED + "digests"
MANIFEST = RESERVED + "manifest"
FILE = RESERVED + "file."
CARRIED = RESERVED + "carried."

VERSION_KEY = "paramdelta.version"
MANIFEST_KEY = "paramdelta.manifest"

BASE, POST, STORED = range(3)  # the three digests of a chunk
DIGESTS_PER_CHUNK = 3

_NONE = np.empty(0, np.uint32)


def pack(corrections: Corrections) -> bytes:
    """The bytes of one chunk's corrections; none at all if nothing was lost.

    Two little-endian uint32, how many remainders and how many exceptions; the remainders' positions
    (uint32) and values (signed, as wide as the arithmetic); the exceptions' positions (uint32) and
    post's bits (as wide as post's format).
    """
    rests, losses = len(corrections.rest_at), len(corrections.lost_at)
    if not rests and not losses:
        return b""
    counts = np.array([rests, losses], "<u4")
    parts = (counts, corrections.rest_at, corrections.rest, corrections.lost_at, corrections.lost)
    return b"".join(part.data for part in parts)


def unpack(data: Bytes, *, elements: int, width: DType, post: DType, where: str) -> Corrections:
    """The corrections packed in `data`, for a chunk of `elements`; arithmetic in `width`.

    Raises CorruptFile if the counts do not match the size, or a position lies outside the chunk.
    """
    signed = np.dtype(f"<i{width.itemsize}")
    if not len(data):
        return Corrections(_NONE, np.empty(0, signed), _NONE, np.empty(0, post.bits))
    raw = data.tobytes()
    rests, losses = (int(n) for n in np.frombuffer(raw, "<u4", 2)) if len(raw) >= 8 else (0, 0)
    size = 8 + rests * (4 + signed.itemsize) + losses * (4 + post.itemsize)
    if size != len(raw):
        raise CorruptFile(f"{len(raw)} bytes of corrections where {size} belong", where=where)
    at = 8

    def take(dtype: Any, count: int) -> NDArray[Any]:
        nonlocal at
        found = np.frombuffer(raw, dtype, count, at)
        at += found.nbytes
        return found

    corrections = Corrections(
        take("<u4", rests), take(signed, rests), take("<u4", losses), take(post.bits, losses)
    )
    for positions in (corrections.rest_at, corrections.lost_at):
        if len(positions) and int(positions.max()) >= elements:
            raise CorruptFile("a correction lies outside its chunk", where=where)
    return corrections
