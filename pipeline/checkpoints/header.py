"""The header of a safetensors file: read with suspicion, written with its size known beforehand.

Format (safetensors, version 1): 8 bytes, the header's length as a little-endian integer; that many
bytes of JSON, `{name: {"dtype", "shape", "data_offsets": [begin, end]}, "__metadata__": {str: str}}`,
which may be padded with spaces; then the tensors' bytes, offsets counted from the header's end, with
no holes and no overlaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.checkpoints.strict_json import parse_json
from pipeline.errors import CorruptFile
from pipeline.storage.base import Reader
from pipeline.tensors.dtypes import BY_NAME, DType
from pipeline.units import MIB

LENGTH_BYTES = 8
METADATA = "__metadata__"
MAX_FILE_BYTES = 1 << 63
MAX_HEADER_BYTES = 100_000_000  # the safetensors library's own limit
_FIRST_READ_BYTES = MIB // 4  # one round trip is enough for most headers
_DATA_ALIGNMENT = 64  # a cache line: data that begin on one are written in five sixths of the time


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of a file: its format, its shape, and where its bytes begin in the file."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    offset: int

    @property
    def count(self) -> int:
        """Number of elements; 1 for a tensor with no dimensions."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.count * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself: its tensors in the order of their bytes."""

    entries: tuple[Entry, ...]
    metadata: dict[str, str]
    text: bytes  # the JSON, padding included


def read_header(reader: Reader) -> Header:
    """Read and check the header of a safetensors file.

    Raises CorruptFile for anything that the format does not allow, truncated files included. Reads no
    more than the header and a quarter of a MiB.
    """
    where = reader.name
    if reader.nbytes < LENGTH_BYTES:
        raise _corrupt(where, f"{reader.nbytes} bytes are too few for a safetensors file")
    first = bytearray(min(reader.nbytes, _FIRST_READ_BYTES))
    reader.read_into(0, memoryview(first))
    length = int.from_bytes(first[:LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise _corrupt(where, f"a header of {length} bytes: not a safetensors file, or damaged")
    begin = LENGTH_BYTES + length
    if begin > reader.nbytes:
        raise _corrupt(where, f"its header should end at byte {begin}, the file at {reader.nbytes}")
    text = bytearray(length)
    have = min(length, len(first) - LENGTH_BYTES)
    text[:have] = first[LENGTH_BYTES : LENGTH_BYTES + have]
    if have < length:
        reader.read_into(LENGTH_BYTES + have, memoryview(text)[have:])
    return parse_header(bytes(text), begin=begin, file_bytes=reader.nbytes, where=where)


def parse_header(text: bytes, *, begin: int, file_bytes: int, where: str) -> Header:
    """The header written as JSON `text`; tensor bytes begin at `begin` of a file of `file_bytes`."""
    try:
        fields = parse_json(text)
    except ValueError as error:
        raise _corrupt(where, f"its header is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise _corrupt(where, "its header is not a JSON object")
    metadata = fields.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _corrupt(where, "its __metadata__ is not an object of strings")
    entries = sorted(
        (_parse_entry(name, value, begin, where) for name, value in fields.items()),
        key=lambda entry: (entry.offset, entry.nbytes),
    )
    end = begin
    for entry in entries:
        if entry.offset != end:
            raise _corrupt(where, f"tensor {entry.name!r} begins at byte {entry.offset}, not {end}")
        end += entry.nbytes
    if end != file_bytes:
        raise _corrupt(where, f"its tensors end at byte {end}, the file at {file_bytes}")
    return Header(tuple(entries), metadata, text)


def _parse_entry(name: str, value: Any, begin: int, where: str) -> Entry:
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _corrupt(where, f"tensor {name!r} is not described by dtype, shape and data_offsets")
    dtype = BY_NAME.get(value["dtype"]) if isinstance(value["dtype"], str) else None
    if dtype is None:
        raise CorruptFile(
            f"tensor {name!r} has dtype {value['dtype']!r}, which we do not know",
            where=where,
            hint="known are " + ", ".join(BY_NAME),
        )
    shape, offsets = value["shape"], value["data_offsets"]
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        raise _corrupt(where, f"tensor {name!r} has shape {shape} and data_offsets {offsets}")
    if is_too_large(shape):
        raise _corrupt(where, f"tensor {name!r} is larger than any file")
    entry = Entry(name, dtype, tuple(shape), begin + offsets[0])
    if offsets[1] - offsets[0] != entry.nbytes:
        raise _corrupt(
            where,
            f"tensor {name!r} of shape {shape} and dtype {dtype} takes {entry.nbytes} bytes, "
            f"not {offsets[1] - offsets[0]}",
        )
    return entry


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < MAX_FILE_BYTES for v in values)


def is_too_large(shape: Sequence[int]) -> bool:
    """Whether no file can hold a tensor of this shape, even were its empty dimensions not."""
    product = 1
    for size in shape:
        product *= size or 1
        if product >= MAX_FILE_BYTES:  # at once: the product of a million sizes takes hours
            return True
    return False


def _corrupt(where: str, what: str) -> CorruptFile:
    return CorruptFile(what, where=where, hint="fetch the file again, or check how it was made")


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor to be laid out: name, format and shape."""

    name: str
    dtype: DType
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the tensor."""
        return self.count * self.dtype.itemsize


def aligned_order(tensors: Sequence[Tensor]) -> list[Tensor]:
    """`tensors` with wider elements first, otherwise as they are: then all lie aligned in a file."""
    return sorted(tensors, key=lambda tensor: -tensor.dtype.itemsize)


def build_header(
    tensors: Sequence[Tensor], metadata: Mapping[str, str], *, room: int | None = None
) -> bytes:
    """The length and the JSON of a file that holds `tensors` one after another, in that order.

    The result is padded with spaces to `room` bytes, or else to a whole number of cache lines.
    Raises CorruptFile if the header would be larger than readers accept.
    """
    fields: dict[str, Any] = {METADATA: dict(metadata)} if metadata else {}
    end = 0
    for tensor in tensors:
        if tensor.name == METADATA:
            raise CorruptFile(f"a tensor can't be called {METADATA}", where="output")
        begin, end = end, end + tensor.nbytes
        fields[tensor.name] = {
            "dtype": tensor.dtype.name,
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
    size = LENGTH_BYTES + len(text)
    if room is None:
        room = -(-size // _DATA_ALIGNMENT) * _DATA_ALIGNMENT
    if size > room or room - LENGTH_BYTES > MAX_HEADER_BYTES:
        raise CorruptFile(f"a header of {size} bytes does not fit into {room}", where="output")
    length = room - LENGTH_BYTES
    return length.to_bytes(LENGTH_BYTES, "little") + text.ljust(length)
