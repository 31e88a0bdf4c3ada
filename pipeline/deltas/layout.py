"""The layout of a delta file, known before a byte is written, and the writing of its last parts.

    header, padded to a room that is known | chunks | index | digests | companions | manifest

In the plain form the stored tensors have their places from the start, and the chunks' corrections grow
behind them; in the packed form all that chunks leave grows from the header on. Both grow in the order of
chunks; the tables, the companions and the manifest follow when all chunks are done. The header is
written last, for the manifest's digest and what has grown are known last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from pipeline.checkpoints.header import Tensor, aligned_order, build_header
from pipeline.deltas.chunks import Tables
from pipeline.deltas.companions import pack_file
from pipeline.deltas.format import (
    CORRECTIONS,
    DIGESTS,
    FILE,
    FORMAT_VERSION,
    INDEX,
    MANIFEST,
    PACKED,
    PLAIN,
    Codec,
    metadata,
    seal,
)
from pipeline.deltas.manifest import Manifest
from pipeline.engine.plan import Input, Job, Plan, Ragged
from pipeline.engine.tail import OrderedTail
from pipeline.storage.base import Writer
from pipeline.tensors.dtypes import U8
from pipeline.tensors.fingerprint import DIGEST_BYTES, Digest, digest_bytes

_UNKNOWN_BYTES = 10**15  # stands for a size that is not known yet: as many digits as any will have


@dataclass(frozen=True)
class DeltaLayout:
    """Where everything in a delta file goes.

    tensors: in the order of their chunks. companions: their names. room: bytes for the header.
    """

    tensors: Sequence[Tensor]
    companions: Sequence[str]
    codec: Codec
    room: int

    @classmethod
    def plan(cls, tensors: Sequence[Tensor], companions: Sequence[str], codec: Codec) -> DeltaLayout:
        """The layout for `tensors`, which are put into an order that aligns them all."""
        ordered = aligned_order(tensors)
        draft = cls(ordered, companions, codec, room=0)
        header = draft._header(dict.fromkeys(draft._tables, _UNKNOWN_BYTES), Digest(bytes(DIGEST_BYTES)))
        return cls(ordered, companions, codec, room=len(header))

    @property
    def value_bytes(self) -> int:
        """Bytes of all stored values, unpacked."""
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def offsets(self) -> list[int]:
        """Where each tensor begins in the plain form's file, and at the end where they all end.

        In the packed form the places that they would have, which nothing is written to.
        """
        return list(accumulate((tensor.nbytes for tensor in self.tensors), initial=self.room))

    def fill(self, inputs: Iterable[tuple[Input | Ragged | None, ...]]) -> Plan:
        """The plan that makes each tensor, in order, of its inputs."""
        jobs = [
            Job(0 if self.codec == PLAIN else None, offset, tensor.dtype.itemsize, tensor.count, parts)
            for tensor, offset, parts in zip(self.tensors, self.offsets[:-1], inputs, strict=True)
        ]
        return Plan(jobs)

    def tail(self, writer: Writer) -> OrderedTail:
        """What grows with the chunks."""
        return OrderedTail(writer, self.offsets[-1] if self.codec == PLAIN else self.room)

    def writers(self, writer: Writer) -> list[Writer]:
        """What values are written to: the file, or nothing where chunks leave them for the tail."""
        return [writer] if self.codec == PLAIN else []

    def finish(
        self,
        writer: Writer,
        tail: OrderedTail,
        tables: Tables,
        companions: Mapping[str, bytes],
        manifest: Manifest,
    ) -> int:
        """Write everything behind the chunks, then the header; returns the file's size in bytes."""
        begin = self.offsets[-1] if self.codec == PLAIN else self.room
        content = manifest.to_json()
        parts = [
            np.concatenate(([0], np.cumsum(tables.lengths.ravel()))).astype("<u8").tobytes(),
            tables.digests.tobytes(),
            *(pack_file(companions[name], self.codec) for name in self.companions),
            content,
        ]
        sizes = [tail.end - begin, *(len(part) for part in parts)]
        for part in parts:
            tail.append(part)
        tail.flush()
        sizes_by_name = dict(zip(self._tables, sizes, strict=True))
        header = self._header(sizes_by_name, digest_bytes(content), manifest.version)
        writer.write(0, seal(header))
        return tail.end

    @property
    def _tables(self) -> list[str]:
        """The byte tensors, in the order in which they lie."""
        grown = CORRECTIONS if self.codec == PLAIN else PACKED
        return [grown, INDEX, DIGESTS, *(FILE + name for name in self.companions), MANIFEST]

    def _header(
        self, sizes: Mapping[str, int], manifest: Digest, version: int = FORMAT_VERSION
    ) -> bytes:
        stored = self.tensors if self.codec == PLAIN else []
        tables = [Tensor(name, U8, (size,)) for name, size in sizes.items()]
        return build_header([*stored, *tables], metadata(manifest, version), room=self.room or None)
