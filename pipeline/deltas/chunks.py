"""A delta's chunks on their way into a file and out of it: encoded, digested, checked.

Both forms of the file meet here and nowhere else. An encoder or decoder belongs to one worker, for it
reuses its buffers; the tables it fills have a row per chunk, written by one worker each.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.codecs.chunks import ChunkCodec, encoded_bound
from pipeline.codecs.corrections import corrections_bound, pack_corrections, unpack_corrections
from pipeline.deltas.corrections import NO_CORRECTIONS, parts_of, unpack
from pipeline.deltas.format import (
    FILED,
    PLAIN,
    STORED,
    Codec,
    digests_per_chunk,
    parts_per_chunk,
)
from pipeline.deltas.stored import StoredTensor
from pipeline.errors import CorruptFile
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS, Corrections
from pipeline.tensors.dtypes import Bytes, DType, compute_dtype
from pipeline.tensors.fingerprint import DIGEST_BYTES, digest_into, digest_parts

_CODER = 16  # bytes an element of a `ChunkCodec`'s scratch space


@dataclass(frozen=True)
class Tables:
    """What a file says of each chunk. digests: (chunks, 3 or 4, 32). lengths: bytes of its parts."""

    digests: NDArray[np.uint8]
    lengths: NDArray[np.int64]

    @classmethod
    def empty(cls, chunks: int, codec: Codec) -> Tables:
        """Tables to be filled."""
        return cls(
            np.zeros((chunks, digests_per_chunk(codec), DIGEST_BYTES), np.uint8),
            np.zeros((chunks, parts_per_chunk(codec)), np.int64),
        )


class ChunkEncoder:
    """Makes the bytes of chunks in one form of the file."""

    def __init__(self, codec: Codec, tables: Tables) -> None:
        self._tables = tables
        self._codec = None if codec == PLAIN else ChunkCodec()
        self._buffer = np.empty(0, np.uint8)

    def __call__(
        self, row: int, values: Bytes, dtype: DType, corrections: Corrections | None = None
    ) -> bytes:
        """What chunk number `row` leaves behind its values, or instead of them; fills its tables.

        values: stored values of `dtype`. corrections: None for a tensor that is carried.
        """
        parts = parts_of(corrections) if corrections is not None else ()
        digests, lengths = self._tables.digests[row], self._tables.lengths[row]
        digest_into(digests[STORED], values.data, *parts)
        if self._codec is None:
            plain = b"".join(parts)
            lengths[0] = len(plain)
            return plain
        rest_bound = corrections_bound(corrections) if corrections is not None else 0
        self._make_room(encoded_bound(len(values)) + rest_bound)
        size = self._codec.encode(values, dtype.itemsize, self._buffer)
        rest = self._buffer[size:]
        rest_size = pack_corrections(corrections, rest, self._codec) if corrections is not None else 0
        lengths[:] = size, rest_size
        payload = self._buffer[: size + rest_size]
        digest_into(digests[FILED], payload.data)
        return payload.tobytes()

    def _make_room(self, nbytes: int) -> None:
        if len(self._buffer) < nbytes:
            self._buffer = np.empty(0, np.uint8)  # not both at once
            self._buffer = np.empty(nbytes, np.uint8)


class ChunkDecoder:
    """Restores chunks of one delta, and raises CorruptFile for any that is not as it was written."""

    def __init__(self, codec: Codec, where: str) -> None:
        self._where = where
        self._codec = None if codec == PLAIN else ChunkCodec()
        self._buffer = np.empty(0, np.uint8)

    def __call__(
        self, stored: StoredTensor, chunk: int, values: Bytes, rest: Bytes
    ) -> tuple[Bytes, Corrections]:
        """The stored values of a chunk, and what they lost, from its two parts in the file.

        The values are valid until the next call.
        """
        record, digests = stored.record, stored.digests[chunk]
        if record.carried and len(rest):
            raise CorruptFile(f"{record.name!r} is carried, and has corrections", where=self._where)
        elements = min(CHUNK_ELEMENTS, stored.count - chunk * CHUNK_ELEMENTS)
        if self._codec is None:
            self._check(digests[STORED], stored, values.data, rest.data)
            if not len(rest):
                return values, NO_CORRECTIONS
            return values, unpack(
                rest, elements=elements, width=record.width, post=record.post, where=self._where
            )
        self._check(digests[FILED], stored, values.data, rest.data)
        itemsize = record.stored.itemsize
        if len(self._buffer) < elements * itemsize:
            self._buffer = np.empty(0, np.uint8)  # not both at once
            self._buffer = np.empty(elements * itemsize, np.uint8)
        out = self._buffer[: elements * itemsize]
        self._codec.decode(values, itemsize, out, where=self._where)
        corrections = NO_CORRECTIONS
        if len(rest):
            corrections = unpack_corrections(
                rest,
                elements=elements,
                width=record.width,
                post=record.post,
                codec=self._codec,
                where=self._where,
            )
        self._check(digests[STORED], stored, out.data, *parts_of(corrections))
        return out, corrections

    def _check(
        self, digest: NDArray[np.uint8], stored: StoredTensor, *parts: bytes | memoryview
    ) -> None:
        if digest_parts(*parts) != digest.tobytes():
            raise CorruptFile(
                f"tensor {stored.record.name!r} does not match its digest",
                where=self._where,
                hint="the file is damaged: fetch or compute it again",
            )


@dataclass(frozen=True)
class ChunkMemory:
    """What chunks of these formats take, in bytes, if everything is lost that can be.

    dtypes: of stored values, and of the bases and posts that they are of.
    """

    codec: Codec
    dtypes: Set[DType]

    @property
    def encoding(self) -> int:
        """An encoder's: the encoded chunk, the coder's own, and lists on their way into it."""
        if self.codec == PLAIN:
            return 0
        each = _CODER + self._widest + self._corrections + 4 * self._width
        return CHUNK_ELEMENTS * each

    @property
    def decoding(self) -> int:
        """A decoder's: the values, the coder's own, corrections, and lists on their way out."""
        if self.codec == PLAIN:
            return CHUNK_ELEMENTS * self._corrections
        each = _CODER + self._widest + self._corrections + max(12, 2 * self._width)
        return CHUNK_ELEMENTS * each

    @property
    def left(self) -> int:
        """What an encoder returns for each element."""
        return self._corrections + (0 if self.codec == PLAIN else self._widest)

    @property
    def _widest(self) -> int:
        return max((dtype.itemsize for dtype in self.dtypes), default=0)

    @property
    def _width(self) -> int:
        return compute_dtype(*self.dtypes).itemsize

    @property
    def _corrections(self) -> int:
        """Places and values of a remainder and an exception; with their counts, for one is less."""
        post = max((dtype.itemsize for dtype in self.dtypes if dtype.is_float), default=0)
        return (4 + self._width) + (4 + post)
