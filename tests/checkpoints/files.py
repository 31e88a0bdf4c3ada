"""Safetensors files made by hand, so that they can be made wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.pickled import MemoryReader


def pack(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    """A file with `header` (JSON, or text or bytes as they are) and `data`; `length` may lie."""
    match header:
        case bytes():
            text = header
        case str():
            text = header.encode()
        case _:
            text = json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(begin: int, end: int, *, dtype: object = "F32", shape: object = None) -> dict[str, Any]:
    """What a header says of one tensor; by default a row of float32 that fits its bytes."""
    return {
        "dtype": dtype,
        "shape": [(end - begin) // 4] if shape is None else shape,
        "data_offsets": [begin, end],
    }


def reader(data: bytes) -> MemoryReader:
    """`data` as a file."""
    return MemoryReader("x.safetensors", data)


def contents(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The bytes of each tensor, by name."""
    found = {}
    for name, source in checkpoint.tensors.items():
        data = bytearray(source.entry.nbytes)
        checkpoint.readers[source.file].read_into(source.entry.offset, memoryview(data))
        found[name] = bytes(data)
    return found


def write_index(
    folder: Path, places: Mapping[str, str], name: str = "model.safetensors.index.json"
) -> None:
    """An index that says in which file each tensor is."""
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": dict(places)}))
