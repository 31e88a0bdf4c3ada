"""The layout of a delta file, known before a byte is written, and the writing of its last parts.

    header, padded to a room that is known | stored tensors | corrections | index | digests |
    companions | manifest

Stored tensors have their places from the start. Corrections grow behind them in the order of chunks;
the tables, the companions and the manifest follow when all chunks are done. The header is written last,
for the manifest's digest and the size of the corrections are known last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.header import Tensor, aligned_order, build_header
from pipeline.deltas.format import (
    CORRECTIONS,
    DIGESTS,
    DIGESTS_PER_CHUNK,
    FILE,
    FORMAT_VERSION,
    INDEX,
    MANIFEST,
    MANIFEST_KEY,
    VERSION_KEY,
)
from pipeline.engine.tail import OrderedTail
from pipeline.storage.base import Writer
from pipeline.tensors.dtypes import U8
from pipeline.tensors.fingerprint import DIGEST_BYTES, Digest, digest_bytes

_UNKNOWN_BYTES = 10**15  # stands for a size that is not known yet: as many digits as any will have


@dataclass(frozen=True)
class DeltaLayout:
    """Where everything in a delta file goes.

    tensors: in the order of their bytes. companions: sizes by name. room: bytes for the header.
    """

    tensors: Sequence[Tensor]
    companions: Mapping[str, int]
    room: int

    @classmethod
    def plan(cls, tensors: Sequence[Tensor], companions: Mapping[str, int]) -> DeltaLayout:
        """The layout for `tensors`, which are put into an order that aligns them all."""
        ordered = aligned_order(tensors)
        tables = [_table(name, _UNKNOWN_BYTES) for name in (CORRECTIONS, INDEX, DIGESTS)]
        files = [_table(FILE + name, _UNKNOWN_BYTES) for name in companions]
        draft = [*ordered, *tables, *files, _table(MANIFEST, _UNKNOWN_BYTES)]
        return cls(ordered, companions, len(build_header(draft, _metadata(Digest(bytes(DIGEST_BYTES))))))

    @property
    def offsets(self) -> list[int]:
        """Where each tensor begins in the file, and at the end where the corrections begin."""
        return list(accumulate((tensor.nbytes for tensor in self.tensors), initial=self.room))

    def finish(
        self,
        writer: Writer,
        tail: OrderedTail,
        *,
        lengths: NDArray[np.int64],
        digests: NDArray[np.uint8],
        companions: Mapping[str, bytes],
        manifest: bytes,
    ) -> None:
        """Write everything behind the corrections, then the header.

        lengths: bytes of each chunk's corrections. digests: (chunks, 3, 32).
        """
        corrections = _table(CORRECTIONS, tail.end - self.offsets[-1])
        index = np.concatenate(([0], np.cumsum(lengths))).astype("<u8").tobytes()
        parts = [
            (INDEX, index),
            (DIGESTS, digests.tobytes()),
            *((FILE + name, companions[name]) for name in self.companions),
            (MANIFEST, manifest),
        ]
        for _, data in parts:
            tail.append(data)
        tail.flush()
        tables = [corrections, *(_table(name, len(data)) for name, data in parts)]
        metadata = _metadata(digest_bytes(manifest))
        writer.write(0, build_header([*self.tensors, *tables], metadata, room=self.room))


def digests_table(chunks: int) -> NDArray[np.uint8]:
    """An empty table of digests: (chunks, 3, 32)."""
    return np.zeros((chunks, DIGESTS_PER_CHUNK, DIGEST_BYTES), np.uint8)


def _table(name: str, nbytes: int) -> Tensor:
    return Tensor(name, U8, (nbytes,))


def _metadata(manifest: Digest) -> dict[str, str]:
    return {"format": "pt", VERSION_KEY: str(FORMAT_VERSION), MANIFEST_KEY: str(manifest)}
