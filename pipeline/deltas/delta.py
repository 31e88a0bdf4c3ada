"""An opened delta: its manifest, where its tensors lie, and what they lost.

Opening reads the header, the manifest, the index and the digests (about 0.01% of the file); stored
tensors and corrections stay where they are, to be read by range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.alignment import is_absent
from pipeline.checkpoints.files import TOKENIZER, is_companion
from pipeline.checkpoints.header import Entry, Header, read_header
from pipeline.checkpoints.policy import vocab_size
from pipeline.checkpoints.vocabulary import Vocabulary, read_vocabulary, vocabulary_files
from pipeline.codecs.chunks import encoded_bound
from pipeline.deltas.chunks import ChunkDecoder, ChunkMemory
from pipeline.deltas.companions import MAX_COMPANION_BYTES, unpack_file
from pipeline.deltas.corrections import packed_bound
from pipeline.deltas.format import (
    BASE,
    CARRIED,
    CORRECTIONS,
    DIGESTS,
    FILE,
    FORMAT_VERSION,
    HEADER_KEY,
    INDEX,
    MANIFEST,
    MANIFEST_KEY,
    PACKED,
    PLAIN,
    POST,
    REORDERED_VERSION,
    STORED,
    VERSION_KEY,
    digests_per_chunk,
    is_sealed,
    parts_per_chunk,
)
from pipeline.deltas.manifest import Manifest, TensorRecord
from pipeline.deltas.stored import StoredTensor
from pipeline.engine.plan import Input, Ragged
from pipeline.errors import CorruptFile, UsageError
from pipeline.settings import Settings
from pipeline.storage.base import Reader
from pipeline.storage.locations import parse_delta
from pipeline.storage.names import safe_name
from pipeline.storage.opening import open_parent
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.tensors.dtypes import U8, DType
from pipeline.tensors.fingerprint import (
    DIGEST_BYTES,
    Digest,
    digest_bytes,
    fold_checkpoint,
    fold_tensor,
)


@dataclass(frozen=True)
class Delta:
    """An opened delta. `indexed` is where the bytes that the index counts begin in the file."""

    location: str
    reader: Reader
    manifest: Manifest
    manifest_digest: Digest
    tensors: Mapping[str, StoredTensor]
    indexed: int
    companions: Mapping[str, Entry]

    def inputs(self, stored: StoredTensor, reader: int) -> tuple[Input | Ragged, Ragged]:
        """A tensor's two parts, its values and what they lost, as inputs from reader number `reader`."""
        parts = parts_per_chunk(self.manifest.codec)
        starts, ends = stored.bounds[:-1], stored.bounds[1:]
        rest = Ragged(reader, self.indexed, starts[parts - 1 :: parts], ends[parts - 1 :: parts])
        if self.manifest.codec == PLAIN:
            return Input(reader, stored.offset, stored.record.stored.itemsize, stored.count), rest
        return Ragged(reader, self.indexed, starts[::parts], ends[::parts]), rest

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return self.reader.nbytes

    @property
    def vocab_size(self) -> int | None:
        """Rows of the post model's embedding, as its config says."""
        return vocab_size(self.manifest.post_config)

    @cached_property
    def dtypes(self) -> frozenset[DType]:
        """The formats of its tensors and of those that they were made of."""
        records = (stored.record for stored in self.tensors.values())
        return frozenset(dtype for each in records for dtype in (each.stored, each.base, each.post))

    def decoder(self) -> ChunkDecoder:
        """What restores its chunks, for one worker."""
        return ChunkDecoder(self.manifest.codec, self.location)

    @property
    def decoding_bytes(self) -> int:
        """What a decoder needs."""
        return ChunkMemory(self.manifest.codec, self.dtypes).decoding

    def read_companion(self, name: str, *, room: int = MAX_COMPANION_BYTES) -> bytes:
        """The content of a companion file, of at most `room` bytes.

        Raises CorruptFile if it is longer, or does not match its digest.
        """
        packed = read_entry(self.reader, self.companions[name])
        data = unpack_file(packed, self.manifest.codec, room=room, where=self.location)
        if digest_bytes(data) != self.manifest.files[name]:
            raise CorruptFile(f"companion {name!r} does not match its digest", where=self.location)
        return data

    def read_tokenizer(self) -> bytes | None:
        """The content of tokenizer.json, if there is one."""
        return self.read_companion(TOKENIZER) if TOKENIZER in self.companions else None

    def read_vocabulary(self) -> Vocabulary | None:
        """The tokens of post, if its tokenizer is of a known form."""
        names = vocabulary_files(self.companions)
        return read_vocabulary({name: self.read_companion(name) for name in names})

    def read_companions(self) -> dict[str, bytes]:
        """The content of all companion files, which have `MAX_COMPANION_BYTES` between them."""
        found: dict[str, bytes] = {}
        for name in self.companions:
            room = MAX_COMPANION_BYTES - sum(map(len, found.values()))
            found[name] = self.read_companion(name, room=room)
        return found

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
    """Open the delta that `reader` reads, and check its tables against each other.

    Raises CorruptFile.
    """
    header = read_header(reader)
    entries = {entry.name: entry for entry in header.entries}
    manifest = _read_manifest(reader, header, entries, location)
    offsets, digests = _read_tables(reader, entries, manifest, location)
    plain = manifest.codec == PLAIN
    parts = parts_per_chunk(manifest.codec)
    tensors: dict[str, StoredTensor] = {}
    row = 0
    for record in manifest.tensors:
        offset = _offset(record, entries, location) if plain else 0
        _check_base_shape(record, location)
        chunks = -(-math.prod(record.shape) // CHUNK_ELEMENTS)
        rows = digests[row : row + chunks]
        _check_digests(record, rows, location)
        bounds = offsets[row * parts : (row + chunks) * parts + 1]
        _check_parts(record, np.diff(bounds).reshape(chunks, parts), location)
        if record.name in tensors:
            raise CorruptFile(f"tensor {record.name!r} is there twice", where=location)
        tensors[record.name] = StoredTensor(record, offset, bounds, rows)
        row += chunks
    _check_identities(manifest, location)
    companions = _companions(entries, manifest, location)
    grown = CORRECTIONS if plain else PACKED
    own = {MANIFEST, INDEX, DIGESTS, grown, *(FILE + name for name in companions)}
    _check_nothing_else(entries, own, tensors if plain else {}, location)
    indexed = entries[grown].offset
    digest = Digest.parse(header.metadata[MANIFEST_KEY])  # checked by `_read_manifest`
    return Delta(location, reader, manifest, digest, tensors, indexed, companions)


def _offset(record: TensorRecord, entries: Mapping[str, Entry], location: str) -> int:
    """Where a tensor's values lie in the plain form."""
    entry = entries.get(CARRIED + record.name if record.carried else record.name)
    if entry is None or (entry.shape, entry.dtype) != (record.shape, record.stored):
        raise CorruptFile(f"tensor {record.name!r} is not as the manifest says", where=location)
    return entry.offset


def _read_manifest(
    reader: Reader, header: Header, entries: Mapping[str, Entry], location: str
) -> Manifest:
    if VERSION_KEY not in header.metadata:
        raise UsageError(
            "is a safetensors file, but not a delta",
            where=location,
            hint="make one with `cli.py compute`",
        )
    if header.metadata[VERSION_KEY] not in (str(FORMAT_VERSION), str(REORDERED_VERSION)):
        raise CorruptFile(
            f"is of delta format version {header.metadata[VERSION_KEY]}",
            where=location,
            hint=f"this tool reads versions {FORMAT_VERSION} and {REORDERED_VERSION}: use a newer one",
        )
    if not is_sealed(header.text, header.metadata.get(HEADER_KEY, "")):
        raise CorruptFile("its header does not match its digest", where=location)
    if any(name not in entries for name in (MANIFEST, INDEX, DIGESTS)):
        raise CorruptFile("lacks its manifest or its tables", where=location)
    data = read_entry(reader, entries[MANIFEST])
    if str(digest_bytes(data)) != header.metadata.get(MANIFEST_KEY):
        raise CorruptFile("its manifest does not match its digest", where=location)
    manifest = Manifest.from_json(data, where=location)
    if header.metadata[VERSION_KEY] != str(manifest.version):
        raise CorruptFile(
            f"is of delta format version {header.metadata[VERSION_KEY]}, "
            f"but its manifest of version {manifest.version}",
            where=location,
        )
    return manifest


def _read_tables(
    reader: Reader, entries: Mapping[str, Entry], manifest: Manifest, location: str
) -> tuple[NDArray[np.uint64], NDArray[np.uint8]]:
    """The index and the digests, checked against the number of chunks and of bytes."""
    counts = (math.prod(record.shape) for record in manifest.tensors)
    chunks = sum(-(-count // CHUNK_ELEMENTS) for count in counts)
    columns, parts = digests_per_chunk(manifest.codec), parts_per_chunk(manifest.codec)
    grown = entries.get(CORRECTIONS if manifest.codec == PLAIN else PACKED)
    sizes = (entries[INDEX].nbytes, entries[DIGESTS].nbytes)
    if grown is None or sizes != ((chunks * parts + 1) * 8, chunks * columns * DIGEST_BYTES):
        raise CorruptFile("its tables are not of its tensors' size", where=location)
    offsets = np.frombuffer(read_entry(reader, entries[INDEX]), "<u8")
    if offsets[0] or offsets[-1] != grown.nbytes or np.any(offsets[1:] < offsets[:-1]):
        raise CorruptFile("its index is not in order", where=location)
    digests = np.frombuffer(read_entry(reader, entries[DIGESTS]), np.uint8)
    return offsets, digests.reshape(chunks, columns, DIGEST_BYTES)


def _check_digests(record: TensorRecord, rows: NDArray[np.uint8], location: str) -> None:
    """The chunks' digests must fold into the tensor's, and be zeros where there is no such side."""
    sides = (
        (BASE, record.base_digest, record.base, record.base_shape),
        (POST, record.post_digest, record.post, record.shape),
        (STORED, record.stored_digest, record.stored, record.shape),
    )
    for side, digest, dtype, shape in sides:
        count = 0 if digest is None else -(-math.prod(shape) // CHUNK_ELEMENTS)
        folds = digest is None or digest == fold_tensor(dtype, shape, rows[:count, side])
        if not folds or rows[count:, side].any():
            raise CorruptFile(
                f"the digests of {record.name!r} do not match its own",
                where=location,
                hint="the file is damaged: fetch or compute it again",
            )
    if record.carried and record.post_digest is not None:
        changed = math.prod(record.shape) and record.base_digest != record.post_digest
        if record.stored_digest != record.post_digest or bool(record.changed) != bool(changed):
            raise CorruptFile(f"{record.name!r} is carried, and is not post's", where=location)


def _check_identities(manifest: Manifest, location: str) -> None:
    """The fingerprints of base and post are those that their tensors' digests make."""
    for side, identity, digests in (
        ("base", manifest.base, {record.name: record.base_digest for record in manifest.tensors}),
        ("post", manifest.post, {record.name: record.post_digest for record in manifest.tensors}),
    ):
        known = {name: digest for name, digest in digests.items() if digest is not None}
        fits = len(known) == len(digests) and identity and identity.fingerprint == fold_checkpoint(known)
        if not fits and (identity or known):
            raise CorruptFile(f"its tensors do not make the {side} that it names", where=location)


def _companions(entries: Mapping[str, Entry], manifest: Manifest, location: str) -> dict[str, Entry]:
    """The companions by name: those of the manifest, and nothing else under that guise."""
    found = {name.removeprefix(FILE): entry for name, entry in entries.items() if name.startswith(FILE)}
    if set(found) != set(manifest.files) or not all(map(is_companion, found)):
        raise CorruptFile("its companions are not those of the manifest", where=location)
    try:
        return {safe_name(name): entry for name, entry in found.items()}
    except UsageError as error:
        raise CorruptFile(f"a companion can't be called that: {error.what}", where=location) from None


def _check_parts(record: TensorRecord, sizes: NDArray[np.uint64], location: str) -> None:
    """No part of a chunk may be longer than the worst that an encoder makes of so many elements."""
    elements = min(CHUNK_ELEMENTS, math.prod(record.shape))
    limits = (encoded_bound(elements * record.stored.itemsize), packed_bound(elements))[
        -sizes.shape[1] :
    ]
    if len(sizes) and np.any(sizes.max(axis=0) > np.array(limits, np.uint64)):
        raise CorruptFile(f"chunks of {record.name!r} are longer than they can be", where=location)


def _check_base_shape(record: TensorRecord, location: str) -> None:
    """The base may have had fewer rows, nothing else."""
    shape, base = record.shape, record.base_shape
    if is_absent(base, shape):
        return
    if base != shape and (len(base) != len(shape) or base[1:] != shape[1:] or base[0] > shape[0]):
        raise CorruptFile(f"{record.name!r} has shape {shape} but its base {base}", where=location)


def _check_nothing_else(
    entries: Mapping[str, Entry], own: set[str], tensors: Mapping[str, StoredTensor], location: str
) -> None:
    """No tensor without a record: others would add it, or see in it what nobody digested."""
    known = {CARRIED + t.record.name if t.record.carried else name for name, t in tensors.items()} | own
    stray = [name for name in entries if name not in known]
    if stray:
        raise CorruptFile(f"tensor {stray[0]!r} is not in the manifest", where=location)
    odd = [name for name in own if (entries[name].dtype, len(entries[name].shape)) != (U8, 1)]
    if odd:
        raise CorruptFile(f"tensor {odd[0]!r} is not a row of bytes", where=location)


def read_entry(reader: Reader, entry: Entry) -> bytes:
    """The bytes of a small tensor. Raises CorruptFile if it is not small."""
    if entry.nbytes > MAX_COMPANION_BYTES:
        raise CorruptFile(f"{entry.name!r} has {entry.nbytes} bytes: too many", where=reader.name)
    data = bytearray(entry.nbytes)
    reader.read_into(entry.offset, memoryview(data))
    return bytes(data)
