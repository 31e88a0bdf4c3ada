"""An opened delta: its manifest, where its tensors lie, and what they lost.

Opening reads the header, the manifest, the index and the digests (about 0.01% of the file); stored
tensors and corrections stay where they are, to be read by range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.files import is_companion
from pipeline.checkpoints.header import Entry, Header, read_header
from pipeline.checkpoints.policy import vocab_size
from pipeline.deltas.format import (
    BASE,
    CARRIED,
    CORRECTIONS,
    DIGESTS,
    DIGESTS_PER_CHUNK,
    FILE,
    FORMAT_VERSION,
    INDEX,
    MANIFEST,
    MANIFEST_KEY,
    POST,
    RESERVED,
    STORED,
    VERSION_KEY,
)
from pipeline.deltas.manifest import Manifest, TensorRecord
from pipeline.errors import CorruptFile, UsageError
from pipeline.settings import Settings
from pipeline.storage.base import Reader
from pipeline.storage.locations import open_parent, parse_delta
from pipeline.storage.names import safe_name
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.tensors.fingerprint import DIGEST_BYTES, digest_bytes, fold_tensor
from pipeline.units import MIB

MAX_COMPANION_BYTES = 256 * MIB


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a delta: its record, its bytes' place, and its chunks' share of the tables.

    bounds: (chunks + 1) offsets into the corrections. digests: (chunks, 3, 32) bytes.
    """

    record: TensorRecord
    offset: int
    bounds: NDArray[np.uint64]
    digests: NDArray[np.uint8]


@dataclass(frozen=True)
class Delta:
    """An opened delta. `corrections_offset` is where the corrections begin in the file."""

    location: str
    reader: Reader
    manifest: Manifest
    tensors: Mapping[str, StoredTensor]
    corrections_offset: int
    companions: Mapping[str, Entry]

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self.reader.nbytes

    @property
    def vocab_size(self) -> int | None:
        """Rows of the post model's embedding, as its config says."""
        return vocab_size(self.manifest.post_config)

    def read_companion(self, name: str) -> bytes:
        """The content of a companion file. Raises CorruptFile if it does not match its digest."""
        data = read_entry(self.reader, self.companions[name])
        if digest_bytes(data) != self.manifest.files[name]:
            raise CorruptFile(f"companion {name!r} does not match its digest", where=self.location)
        return data

    def close(self) -> None:
        """Close the file."""
        self.reader.close()

    def __enter__(self) -> Delta:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_delta(location: str, *, settings: Settings | None = None) -> Delta:
    """Open the delta at `location`. Raises NotFound, CorruptFile, AccessError and UsageError."""
    settings = settings or Settings.load()
    where = parse_delta(location)
    store, name = open_parent(where, settings)
    return read_delta(store.open(name), location=str(where))


def read_delta(reader: Reader, *, location: str) -> Delta:
    """Open the delta that `reader` reads, and check its tables against each other."""
    header = read_header(reader)
    entries = {entry.name: entry for entry in header.entries}
    manifest = _read_manifest(reader, header, entries, location)
    offsets, digests = _read_tables(reader, entries, manifest, location)
    tensors: dict[str, StoredTensor] = {}
    row = 0
    for record in manifest.tensors:
        entry = entries.get(CARRIED + record.name if record.carried else record.name)
        if entry is None or (entry.shape, entry.dtype) != (record.shape, record.stored):
            raise CorruptFile(f"tensor {record.name!r} is not as the manifest says", where=location)
        _check_base_shape(record, location)
        chunks = -(-entry.count // CHUNK_ELEMENTS)
        rows = digests[row : row + chunks]
        _check_digests(record, rows, location)
        bounds = offsets[row : row + chunks + 1]
        tensors[record.name] = StoredTensor(record, entry.offset, bounds, rows)
        row += chunks
    _check_nothing_else(entries, tensors, location)
    companions = {
        safe_name(entry.name.removeprefix(FILE)): entry
        for entry in header.entries
        if entry.name.startswith(FILE)
    }
    strange = [name for name in companions if not is_companion(name)]
    if strange or set(companions) != set(manifest.files):
        raise CorruptFile("its companions are not those of the manifest", where=location)
    return Delta(location, reader, manifest, tensors, entries[CORRECTIONS].offset, companions)


def _read_manifest(
    reader: Reader, header: Header, entries: Mapping[str, Entry], location: str
) -> Manifest:
    if VERSION_KEY not in header.metadata:
        raise UsageError(
            "is a safetensors file, but not a delta",
            where=location,
            hint="make one with `cli.py compute`",
        )
    if header.metadata[VERSION_KEY] != str(FORMAT_VERSION):
        raise CorruptFile(
            f"is of delta format version {header.metadata[VERSION_KEY]}",
            where=location,
            hint=f"this tool reads version {FORMAT_VERSION}: use a newer one",
        )
    if any(name not in entries for name in (MANIFEST, INDEX, DIGESTS, CORRECTIONS)):
        raise CorruptFile("lacks its manifest or its tables", where=location)
    data = read_entry(reader, entries[MANIFEST])
    if str(digest_bytes(data)) != header.metadata.get(MANIFEST_KEY):
        raise CorruptFile("its manifest does not match its digest", where=location)
    return Manifest.from_json(data, where=location)


def _read_tables(
    reader: Reader, entries: Mapping[str, Entry], manifest: Manifest, location: str
) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """The index and the digests, checked against the number of chunks and of bytes."""
    counts = (math.prod(record.shape) for record in manifest.tensors)
    chunks = sum(-(-count // CHUNK_ELEMENTS) for count in counts)
    row_bytes = DIGESTS_PER_CHUNK * DIGEST_BYTES
    sizes = (entries[INDEX].nbytes, entries[DIGESTS].nbytes)
    if sizes != ((chunks + 1) * 8, chunks * row_bytes):
        raise CorruptFile("its tables are not of its tensors' size", where=location)
    offsets = np.frombuffer(read_entry(reader, entries[INDEX]), "<u8")
    if offsets[0] or offsets[-1] != entries[CORRECTIONS].nbytes or np.any(offsets[1:] < offsets[:-1]):
        raise CorruptFile("its index is not in order", where=location)
    digests = np.frombuffer(read_entry(reader, entries[DIGESTS]), np.uint8)
    return offsets, digests.reshape(chunks, DIGESTS_PER_CHUNK, DIGEST_BYTES)


def _check_digests(record: TensorRecord, rows: NDArray[np.uint8], location: str) -> None:
    """The chunks' digests must fold into the tensor's, on all three sides."""
    base_chunks = -(-math.prod(record.base_shape) // CHUNK_ELEMENTS)
    folded = (
        fold_tensor(record.base, record.base_shape, rows[:base_chunks, BASE]),
        fold_tensor(record.post, record.shape, rows[:, POST]),
        fold_tensor(record.stored, record.shape, rows[:, STORED]),
    )
    if folded != (record.base_digest, record.post_digest, record.stored_digest):
        raise CorruptFile(f"the digests of {record.name!r} do not match its own", where=location)


def _check_base_shape(record: TensorRecord, location: str) -> None:
    """The base may have had fewer rows, nothing else."""
    shape, base = record.shape, record.base_shape
    if base != shape and (len(base) != len(shape) or base[1:] != shape[1:] or base[0] > shape[0]):
        raise CorruptFile(f"{record.name!r} has shape {shape} but its base {base}", where=location)


def _check_nothing_else(
    entries: Mapping[str, Entry], tensors: Mapping[str, StoredTensor], location: str
) -> None:
    """No tensor without a record: it would be added by others and ignored by us."""
    known = {CARRIED + t.record.name if t.record.carried else name for name, t in tensors.items()}
    stray = [name for name in entries if name not in known and not name.startswith(RESERVED)]
    if stray or len(known) != len(tensors):
        raise CorruptFile(f"tensor {(stray or ['?'])[0]!r} is not in the manifest", where=location)


def read_entry(reader: Reader, entry: Entry) -> bytes:
    """The bytes of a small tensor. Raises CorruptFile if it is not small."""
    if entry.nbytes > MAX_COMPANION_BYTES:
        raise CorruptFile(f"{entry.name!r} has {entry.nbytes} bytes: too many", where=reader.name)
    data = bytearray(entry.nbytes)
    reader.read_into(entry.offset, memoryview(data))
    return bytes(data)
