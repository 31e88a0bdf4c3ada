"""Digests of content, independent of sharding and file format.

A tensor is digested chunk by chunk (`CHUNK_ELEMENTS` elements each), so that any chunk can be checked
alone, in any order, by any worker; the tensor's fingerprint folds those digests with its dtype and
shape, and a checkpoint's fingerprint folds those of its tensors by name:

    chunk      = BLAKE3(raw little-endian bytes)
    tensor     = BLAKE3("paramdelta tensor 1\\n" dtype "\\n" shape, "," between "\\n" chunk digests)
    checkpoint = BLAKE3("paramdelta checkpoint 1\\n" { name "\\0" tensor digest }, names sorted)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from pipeline.tensors.dtypes import DType

DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class Digest:
    """A BLAKE3 digest of 32 bytes; written as 64 hexadecimal digits."""

    raw: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """The digest written as `text`. Raises ValueError if it is not 64 hexadecimal digits."""
        raw = bytes.fromhex(text)
        if len(raw) != DIGEST_BYTES or raw.hex() != text:
            raise ValueError(f"a digest has {2 * DIGEST_BYTES} hexadecimal digits in lower case")
        return cls(raw)

    def __str__(self) -> str:
        return self.raw.hex()


def digest_bytes(data: bytes) -> Digest:
    """The digest of raw bytes."""
    return Digest(blake3(data).digest())


def digest_parts(*parts: bytes | memoryview) -> bytes:
    """The raw digest of the bytes of `parts`, one after another."""
    hasher = blake3()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


def digest_into(row: NDArray[np.uint8], *parts: bytes | memoryview) -> None:
    """Write `digest_parts` into `row` (32 bytes)."""
    row.data[:] = digest_parts(*parts)


def are_made(rows: NDArray[np.uint8]) -> bool:
    """Whether every row has been filled with a digest: none is all zeros."""
    return bool(rows.any(axis=1).all())


def fold_tensor(dtype: DType, shape: Sequence[int], chunks: NDArray[np.uint8]) -> Digest:
    """A tensor's fingerprint from its chunks' digests, an array of shape (chunks, 32)."""
    dimensions = ",".join(str(size) for size in shape)
    hasher = blake3(f"paramdelta tensor 1\n{dtype.name}\n{dimensions}\n".encode())
    hasher.update(np.ascontiguousarray(chunks).tobytes())
    return Digest(hasher.digest())


def fold_checkpoint(tensors: Mapping[str, Digest]) -> Digest:
    """A checkpoint's fingerprint from those of its tensors."""
    hasher = blake3(b"paramdelta checkpoint 1\n")
    for name in sorted(tensors):
        hasher.update(name.encode() + b"\0" + tensors[name].raw)
    return Digest(hasher.digest())
