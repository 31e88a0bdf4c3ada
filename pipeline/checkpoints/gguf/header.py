"""The header of a GGUF file, read with suspicion and by range.

Format (GGUF, versions 2 and 3, little-endian; docs/gguf.md of ggml): the magic, a version, how many
tensors and how many facts; each fact a key, a type and a value; each tensor a name, its dimensions (the
innermost first), its type and its offset; then the tensors' bytes, each at a multiple of the alignment.
gguf's own reader maps the file and believes its counts, so it can be given neither a blob nor the file
of a stranger.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pipeline.checkpoints.header import MAX_HEADER_BYTES, is_too_large
from pipeline.errors import CorruptFile, NotACheckpoint
from pipeline.storage.base import Reader
from pipeline.units import MIB

MAGIC = b"GGUF"
VERSIONS = (2, 3)
STRING, ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_MAX_DIMENSIONS = 4  # ggml's own limit
_MAX_LISTED = 1 << 16  # facts, and tensors: far more than any model has, and few enough to be held
_ALIGNMENT = 32  # bytes, unless the fact below says otherwise
_ALIGNMENT_FACT = "general.alignment"

Value = str | int | float | bool


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact: its key, type and value as it is written; `length` values of the type `item`, if many.

    value: None for many.
    """

    raw: bytes
    value: Value | None
    item: int
    length: int = 1


@dataclass(frozen=True, slots=True)
class Packed:
    """One tensor as it lies in the file. kind: ggml's number of its type. shape: the outermost first."""

    name: str
    kind: int
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return math.prod(self.shape[:-1])

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.nbytes // max(1, self.rows)


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says of itself. tensors: in the order of their bytes."""

    facts: Mapping[str, Fact]
    tensors: tuple[Packed, ...]

    def text(self, key: str) -> str | None:
        """The fact `key`, if it is text."""
        fact = self.facts.get(key)
        return fact.value if fact is not None and isinstance(fact.value, str) else None


def read_gguf_header(reader: Reader, sizes: Mapping[int, tuple[int, int]]) -> Header:
    """Read and check the header of a GGUF file.

    sizes: elements and bytes of a block, by type. Raises CorruptFile for anything that does not add up,
    NotACheckpoint for a form that is not read: another version, a type that is not known.
    """
    return _Parser(reader, sizes).header()


class _Parser:
    """Walks through a header, which is read piece by piece."""

    def __init__(self, reader: Reader, sizes: Mapping[int, tuple[int, int]]) -> None:
        self._reader = reader
        self._sizes = sizes
        self._data = bytearray()
        self._at = 0

    def header(self) -> Header:
        """The whole header."""
        if self._take(4) != MAGIC:
            raise self._corrupt("does not begin as a GGUF file does")
        version = self._number("I")
        if version not in VERSIONS:
            raise NotACheckpoint(
                f"is GGUF of version {version}, or not little-endian",
                where=self._reader.name,
                hint="versions 2 and 3 are read: convert it by llama.cpp",
            )
        tensors, facts = self._number("Q"), self._number("Q")
        if max(tensors, facts) > _MAX_LISTED:
            raise self._corrupt(f"says that it has {tensors} tensors and {facts} facts")
        found: dict[str, Fact] = {}
        for _ in range(facts):
            begin = self._at
            key = self._text()
            if key in found:
                raise self._corrupt(f"has the fact {key!r} twice")
            found[key] = self._fact(begin)
        listed = [self._tensor() for _ in range(tensors)]
        return Header(found, self._placed(listed, self._alignment(found)))

    def _take(self, count: int) -> bytes:
        """The next `count` bytes."""
        end = self._at + count
        if end > min(self._reader.nbytes, MAX_HEADER_BYTES):
            raise self._corrupt(f"its header does not end before byte {end}")
        while len(self._data) < end:
            have = len(self._data)
            more = bytearray(min(self._reader.nbytes - have, max(MIB, have, end - have)))
            self._reader.read_into(have, memoryview(more))
            self._data += more
        taken = bytes(self._data[self._at : end])
        self._at = end
        return taken

    def _number(self, form: str) -> int:
        return int(struct.unpack("<" + form, self._take(struct.calcsize("<" + form)))[0])

    def _text(self) -> str:
        try:
            return self._take(self._number("Q")).decode()
        except UnicodeDecodeError as error:
            raise self._corrupt(f"has a text that is not UTF-8: {error}") from error

    def _fact(self, begin: int) -> Fact:
        """The fact whose key has been read, and began at byte `begin`."""
        kind, length = self._number("I"), 1
        value: Value | None = None
        if kind == ARRAY:
            kind, length = self._number("I"), self._number("Q")
            self._skip(kind, length)
        elif kind == STRING:
            value = self._text()
        else:
            form = self._form(kind)
            (value,) = struct.unpack("<" + form, self._take(struct.calcsize("<" + form)))
        return Fact(bytes(self._data[begin : self._at]), value, kind, length)

    def _skip(self, kind: int, length: int) -> None:
        """Go past `length` values."""
        if kind == STRING:
            for _ in range(length):
                self._take(self._number("Q"))
        else:
            self._take(length * struct.calcsize("<" + self._form(kind)))

    def _form(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise self._corrupt(f"has a fact of type {kind}, at byte {self._at}")
        return _SCALARS[kind]

    def _tensor(self) -> Packed:
        """One tensor, its offset still counted from where the tensors begin."""
        name = self._text()
        dimensions = self._number("I")
        if dimensions > _MAX_DIMENSIONS:
            raise self._corrupt(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(reversed([self._number("Q") for _ in range(dimensions)]))
        kind, offset = self._number("I"), self._number("Q")
        if kind not in self._sizes:
            raise NotACheckpoint(
                f"tensor {name!r} is of type {kind}, which the gguf package does not know",
                where=self._reader.name,
                hint="use a file of another quantisation",
            )
        count, nbytes = self._sizes[kind]
        if is_too_large(shape) or (shape[-1] if shape else 1) % count:
            raise self._corrupt(f"tensor {name!r} cannot have shape {list(shape)} in blocks of {count}")
        return Packed(name, kind, shape, offset, math.prod(shape) // count * nbytes)

    def _alignment(self, facts: Mapping[str, Fact]) -> int:
        fact = facts.get(_ALIGNMENT_FACT)
        if fact is None:
            return _ALIGNMENT
        value = fact.value
        if type(value) is not int or value < 1 or value & (value - 1) or value > MIB:
            raise self._corrupt(f"its {_ALIGNMENT_FACT} is {value!r}")
        return value

    def _placed(self, listed: list[Packed], alignment: int) -> tuple[Packed, ...]:
        """The tensors at their places in the file, which do not overlap."""
        begin = end = -(-self._at // alignment) * alignment
        names: set[str] = set()
        found = []
        for each in sorted(listed, key=lambda tensor: (tensor.offset, tensor.nbytes)):
            if each.name in names:
                raise self._corrupt(f"tensor {each.name!r} occurs twice")
            offset = begin + each.offset
            if each.offset % alignment or offset < end or offset + each.nbytes > self._reader.nbytes:
                raise self._corrupt(f"tensor {each.name!r} cannot lie at byte {offset}")
            names.add(each.name)
            end = offset + each.nbytes
            found.append(Packed(each.name, each.kind, each.shape, offset, each.nbytes))
        return tuple(found)

    def _corrupt(self, what: str) -> CorruptFile:
        return CorruptFile(what, where=self._reader.name, hint="fetch the file again")


def stand_in(header: Header, extra: bytes, extras: int, *, whole: str | None = None) -> bytes:
    """A small GGUF file with the same facts but long lists, and the same tensors, all of them empty.

    extra: further facts as they are written, `extras` of them. whole: how the keys of facts begin whose
    long lists are in it, too. What reads facts from a file can be given
    this one: it has no count that is not true.
    """
    short = [
        fact.raw
        for key, fact in header.facts.items()
        if not _is_long(fact) or (whole is not None and key.startswith(whole))
    ]
    counts = struct.pack("<QQ", len(header.tensors), len(short) + extras)
    head = MAGIC + struct.pack("<I", VERSIONS[-1]) + counts
    return b"".join([head, *short, extra, *_empty(header.tensors)]).ljust(64, b"\0")


def write_count(key: str, value: int) -> bytes:
    """A fact whose value is a count, as it is written."""
    name = key.encode()
    return struct.pack("<Q", len(name)) + name + struct.pack("<II", 4, value)


def _is_long(fact: Fact) -> bool:
    return fact.length > 1 and (fact.item == STRING or fact.length > 4096)


def _empty(tensors: tuple[Packed, ...]) -> Iterator[bytes]:
    for each in tensors:
        name = each.name.encode()
        yield struct.pack("<Q", len(name)) + name + struct.pack("<IQIQ", 1, 0, 0, 0)
