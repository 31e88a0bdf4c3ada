"""What a copy is held against while it flows past: the digests that a delta or a model has of itself.

A file is cut into spans that lie one behind the other: its header, its chunks, its tables. Each span's
digest is taken as the bytes come, whatever blocks they come in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from blake3 import blake3

from pipeline.checkpoints.files import SAFETENSORS
from pipeline.checkpoints.header import LENGTH_BYTES, Entry, read_header
from pipeline.deltas.companions import MAX_COMPANION_BYTES, unpack_file
from pipeline.deltas.delta import Delta, read_entry
from pipeline.deltas.format import DIGESTS, FILE, FILED, INDEX, MANIFEST, PACKED, PLAIN
from pipeline.errors import CorruptFile
from pipeline.operations.outputs.provenance import Provenance
from pipeline.storage.base import Reader
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.tensors.fingerprint import DIGEST_BYTES, digest_bytes, fold_tensor

_HINT = "the file is damaged: fetch it, or make it, again"


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes that have a digest. digest: what it should be; None if only `_Tensors` can say."""

    nbytes: int
    digest: bytes | None
    what: str


class Check:
    """Digests of a file's spans, taken as it is fed."""

    def __init__(
        self, spans: Sequence[Span], where: str, finish: Callable[[list[bytes]], None] | None = None
    ) -> None:
        self._spans = spans
        self._where = where
        self._finish = finish
        self._found: list[bytes] = []
        self._hasher = blake3()
        self._left = spans[0].nbytes if spans else 0

    def feed(self, data: memoryview) -> None:
        """Take the next bytes. Raises CorruptFile for a span that is not what it should be."""
        while len(data) and len(self._found) < len(self._spans):
            part = data[: self._left]
            self._hasher.update(part)
            self._left -= len(part)
            data = data[len(part) :]
            self._end_spans()
        if len(data):
            raise CorruptFile("goes on behind its end", where=self._where, hint=_HINT)

    def _end_spans(self) -> None:
        """End the span that is full, and the empty ones behind it."""
        while not self._left and len(self._found) < len(self._spans):
            span = self._spans[len(self._found)]
            digest = self._hasher.digest()
            if span.digest is not None and digest != span.digest:
                raise CorruptFile(
                    f"{span.what} does not match its digest", where=self._where, hint=_HINT
                )
            self._found.append(digest)
            self._hasher = blake3()
            if len(self._found) < len(self._spans):
                self._left = self._spans[len(self._found)].nbytes

    def finish(self) -> None:
        """All bytes were fed. Raises CorruptFile."""
        self._end_spans()
        if len(self._found) < len(self._spans):
            raise CorruptFile("ends too early", where=self._where, hint=_HINT)
        if self._finish is not None:
            self._finish(self._found)


def check_of_delta(delta: Delta) -> Check | None:
    """The check of a packed delta; None for a plain one, whose digests are not of bytes in a row."""
    if delta.manifest.codec == PLAIN or not delta.tensors:
        return None
    header = read_header(delta.reader)
    spans = [_header_span(header.text)]
    for entry in header.entries:
        spans += _delta_spans(delta, entry)
    return Check(spans, delta.location)


def _delta_spans(delta: Delta, entry: Entry) -> list[Span]:
    """The spans of one of the tables of a packed delta."""
    if entry.name == PACKED:
        return [
            Span(int(stored.bounds[2 * chunk + 2] - stored.bounds[2 * chunk]),
                 stored.digests[chunk, FILED].tobytes(), f"tensor {stored.record.name!r}")
            for stored in delta.tensors.values()
            for chunk in range(len(stored.digests))
        ]  # fmt: skip
    if entry.name == MANIFEST:
        return [Span(entry.nbytes, delta.manifest_digest.raw, "its manifest")]
    data = read_entry(delta.reader, entry)
    if entry.name == INDEX:
        bounds = [stored.bounds for stored in delta.tensors.values()]
        known = np.concatenate([*(each[:-1] for each in bounds), bounds[-1][-1:]])
        held = np.array_equal(np.frombuffer(data, "<u8"), known)
    elif entry.name == DIGESTS:
        rows = (stored.digests.tobytes() for stored in delta.tensors.values())
        held = b"".join(rows) == data
    else:
        content = unpack_file(data, delta.manifest.codec, room=MAX_COMPANION_BYTES, where=delta.location)
        held = digest_bytes(content) == delta.manifest.files[entry.name.removeprefix(FILE)]
    if not held:
        raise CorruptFile(f"{entry.name!r} is not what it was", where=delta.location, hint=_HINT)
    return [Span(len(data), digest_bytes(data).raw, repr(entry.name))]


def check_of_file(reader: Reader, name: str, said: Provenance | None) -> Check | None:
    """The check of a file of a model folder; None if nobody vouches for it."""
    if said is None:
        return None
    if name in said.shards and name.endswith(SAFETENSORS):
        return _check_of_shard(reader, name, said)
    digest = said.files.get(name)
    return Check([Span(reader.nbytes, digest.raw, name)], reader.name) if digest else None


def _check_of_shard(reader: Reader, name: str, said: Provenance) -> Check:
    header = read_header(reader)
    span = _header_span(header.text)
    if span.digest != said.shards[name].raw:
        raise CorruptFile("its header is not the one that was written", where=reader.name, hint=_HINT)
    spans = [span]
    for entry in header.entries:
        chunk = CHUNK_ELEMENTS * entry.dtype.itemsize
        spans += [
            Span(min(chunk, entry.nbytes - start), None, entry.name)
            for start in range(0, entry.nbytes, chunk)
        ]

    def finish(found: list[bytes]) -> None:
        row = 1
        for entry in header.entries:
            count = -(-entry.count // CHUNK_ELEMENTS)
            rows = np.frombuffer(b"".join(found[row : row + count]), np.uint8)
            folded = fold_tensor(entry.dtype, entry.shape, rows.reshape(count, DIGEST_BYTES))
            if folded != said.tensors.get(entry.name):
                what = f"tensor {entry.name!r} is not as it was written"
                raise CorruptFile(what, where=reader.name, hint=_HINT)
            row += count

    return Check(spans, reader.name, finish)


def _header_span(text: bytes) -> Span:
    header = len(text).to_bytes(LENGTH_BYTES, "little") + text
    return Span(len(header), digest_bytes(header).raw, "its header")
