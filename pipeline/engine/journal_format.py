"""The format of a journal: what a run has done so far, as bytes.

8       "PDJRNL01"
32      the key
5 x u64 bytes of a block; blocks; then of the tail: the next block, its end, bytes not yet written
...     a bit for each block, the lowest first: whether it is done
...     the tables, one after another
...     for each writer: u64 N, then N x (u64 offset, u64 bytes, 64 characters)
...     the tail's bytes that are not yet written
32      BLAKE3 of all this
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.engine.tail import TailState
from pipeline.storage.base import Staged
from pipeline.tensors.fingerprint import DIGEST_BYTES, Digest, digest_bytes

_MAGIC = b"PDJRNL01"
_HEAD = struct.Struct(f"<8s{DIGEST_BYTES}s5Q")
_COUNT = struct.Struct("<Q")
_STAGED = np.dtype([("offset", "<u8"), ("nbytes", "<u8"), ("mark", "S64")])


@dataclass(frozen=True, slots=True)
class JournalState:
    """A journal's content. done: for each block. tables: their bytes. staged: for each writer."""

    block_bytes: int
    done: NDArray[np.bool_]
    tail: TailState
    tables: bytes
    staged: list[list[Staged]]

    def to_bytes(self, key: Digest) -> bytes:
        """The journal of the run with `key`."""
        tail = self.tail
        head = _HEAD.pack(
            _MAGIC, key.raw, self.block_bytes, len(self.done),
            tail.next_block, tail.written, len(tail.ready),
        )  # fmt: skip
        parts = [head, np.packbits(self.done, bitorder="little").tobytes(), self.tables]
        for staged in self.staged:
            rows = [(each.offset, each.nbytes, each.mark.encode()) for each in staged]
            parts += [_COUNT.pack(len(staged)), np.array(rows, _STAGED).tobytes()]
        data = b"".join((*parts, tail.ready))
        return data + digest_bytes(data).raw


def parse_journal(data: bytes, key: Digest, *, tables_bytes: int, writers: int) -> JournalState | None:
    """The content of a journal of a run with so many bytes of tables and writers.

    None if it is of another run than `key`. Raises ValueError or struct.error if it is damaged.
    """
    body = data[:-DIGEST_BYTES]
    if digest_bytes(body).raw != data[-DIGEST_BYTES:]:
        raise ValueError("it does not match its digest")
    magic, found_key, block_bytes, blocks, next_block, written, left = _HEAD.unpack_from(body)
    if (magic, found_key) != (_MAGIC, key.raw):
        return None
    at = _HEAD.size
    bits = np.frombuffer(body, np.uint8, -(-blocks // 8), at)
    at += len(bits)
    tables = body[at : at + tables_bytes]
    at += len(tables)
    staged = []
    for _ in range(writers):
        (count,) = _COUNT.unpack_from(body, at)
        rows = np.frombuffer(body, _STAGED, count, at + _COUNT.size)
        staged.append([Staged(int(o), int(n), m.decode()) for o, n, m in rows])
        at += _COUNT.size + rows.nbytes
    if len(body) - at != left:
        raise ValueError("it has another length than it should")
    done = np.unpackbits(bits, count=blocks, bitorder="little").astype(np.bool_)
    tail = TailState(next_block, written, body[at:])
    return JournalState(block_bytes, done, tail, tables, staged)
