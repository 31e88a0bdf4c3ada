"""GGUF headers that lie: refused before anything is trusted, with no more memory than the file has."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import pytest
from ggufs import LAYERS, write_gguf

from pipeline.checkpoints.checkpoint import open_checkpoint
from pipeline.checkpoints.gguf.header import Header, read_gguf_header
from pipeline.checkpoints.pickled import MemoryReader
from pipeline.errors import CorruptFile, NotACheckpoint, PipelineError

SIZES = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
HUGE = (1 << 64) - 1


def text(value: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(value) if length is None else length) + value


def tensor(
    name: bytes = b"a",
    shape: tuple[int, ...] = (8,),
    kind: int = 0,
    offset: int = 0,
    dimensions: int | None = None,
) -> bytes:
    count = len(shape) if dimensions is None else dimensions
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", count) + sizes + struct.pack("<IQ", kind, offset)


def file(
    *parts: bytes,
    tensors: int = 0,
    facts: int = 0,
    version: int = 3,
    data: int = 0,
    magic: bytes = b"GGUF",
) -> bytes:
    head = magic + struct.pack("<IQQ", version, tensors, facts) + b"".join(parts)
    return head + b"\0" * (-len(head) % 32) + b"\0" * data


def read(data: bytes) -> Header:
    return read_gguf_header(MemoryReader("x.gguf", data), SIZES)


def number(key: bytes, value: int) -> bytes:
    return text(key) + struct.pack("<II", 4, value)


def test_a_header_that_is_in_order_is_read() -> None:
    header = read(
        file(number(b"k", 7), tensor(), tensor(b"b", (2, 4), 1, 32), tensors=2, facts=1, data=48)
    )
    assert header.facts["k"].value == 7
    assert [(t.name, t.shape, t.nbytes) for t in header.tensors] == [("a", (8,), 32), ("b", (4, 2), 16)]
    assert header.tensors[1].offset - header.tensors[0].offset == 32


def test_a_matrix_without_elements_has_no_rows() -> None:
    (empty,) = read(file(tensor(b"a", (8, 0)), tensors=1)).tensors
    assert (empty.shape, empty.rows, empty.row_bytes) == ((0, 8), 0, 0)


@pytest.mark.parametrize(
    "data",
    [
        file(magic=b"GGML"),
        file(tensors=HUGE),
        file(facts=HUGE),
        file(text(b"k", HUGE), facts=1),
        file(text(b"k") + struct.pack("<I", 8) + text(b"v", HUGE), facts=1),
        file(text(b"k") + struct.pack("<IIQ", 9, 4, HUGE), facts=1),
        file(text(b"k") + struct.pack("<IIQ", 9, 8, HUGE), facts=1),
        file(text(b"k") + struct.pack("<IIQ", 9, 9, 1), facts=1),
        file(text(b"k") + struct.pack("<I", 77), facts=1),
        file(text(b"\xff\xfe") + struct.pack("<II", 4, 1), facts=1),
        file(number(b"k", 1), number(b"k", 2), facts=2),
        file(number(b"general.alignment", 0), tensor(), facts=1, tensors=1, data=32),
        file(number(b"general.alignment", 48), tensor(), facts=1, tensors=1, data=32),
        file(number(b"general.alignment", 1 << 31), tensor(), facts=1, tensors=1, data=32),
        file(tensor(), tensor(), tensors=2, data=64),
        file(tensor(), tensor(b"b"), tensors=2, data=64),
        file(tensor(b"a", (8,)), tensor(b"b", (8,), offset=16), tensors=2, data=64),
        file(tensor(offset=HUGE - 31), tensors=1, data=32),
        file(tensor(offset=32), tensors=1, data=32),
        file(tensor(shape=(HUGE,)), tensors=1, data=32),
        file(tensor(shape=(1 << 32, 1 << 32)), tensors=1, data=32),
        file(tensor(dimensions=5), tensors=1, data=32),
        file(tensor(dimensions=1 << 31), tensors=1, data=32),
        file(tensor(shape=(33,), kind=8), tensors=1, data=64),
        file(*(number(b"%06d" % each, 1) for each in range(65_537)), facts=65_537),
        file(*(tensor(b"%06d" % each, (0,)) for each in range(65_537)), tensors=65_537),
    ],
    ids=lambda data: str(len(data)),
)
def test_what_does_not_add_up_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptFile):
        read(data)


@pytest.mark.parametrize(
    "data",
    [file(version=1), file(version=0x03000000), file(tensor(kind=9999), tensors=1, data=32)],
    ids=["version 1", "big-endian", "unknown type"],
)
def test_forms_that_are_not_read_are_named(data: bytes) -> None:
    with pytest.raises(NotACheckpoint, match=r"version|type 9999"):
        read(data)


def with_number(key: str, value: int) -> Callable[[bytes], bytes]:
    """A change of the one place where a file has the number of that fact."""

    def change(data: bytes) -> bytes:
        at = data.index(key.encode()) + len(key) + 4
        return data[:at] + struct.pack("<I", value) + data[at + 4 :]

    return change


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("llama.block_count", 1 << 31),
        ("llama.block_count", LAYERS - 1),
        ("llama.embedding_length", 0),
        ("llama.attention.head_count", 0),
        ("llama.attention.head_count_kv", 1),
        ("llama.feed_forward_length", 1 << 31),
    ],
)
def test_facts_that_do_not_fit_the_tensors_are_refused(tmp_path: Path, key: str, value: int) -> None:
    path = write_gguf(tmp_path / "m.gguf", gguf.GGMLQuantizationType.Q8_0)
    path.write_bytes(with_number(key, value)(path.read_bytes()))
    with pytest.raises(PipelineError):
        open_checkpoint(str(path))


def test_an_error_says_of_which_file_it_is(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", gguf.GGMLQuantizationType.Q8_0)
    path.write_bytes(with_number("llama.block_count", 1 << 31)(path.read_bytes()))
    with pytest.raises(CorruptFile, match=r"m\.gguf: says that it has 2147483648 layers"):
        open_checkpoint(str(path))


def test_a_part_of_a_split_file_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", gguf.GGMLQuantizationType.Q8_0, counts={"split.count": 3})
    with pytest.raises(NotACheckpoint, match="one of 3 files"):
        open_checkpoint(str(path))


def test_types_that_cannot_be_dequantised_are_named(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", gguf.GGMLQuantizationType.F32)
    data = path.read_bytes()
    at = data.index(b"output_norm.weight") + len(b"output_norm.weight") + 4 + 8
    path.write_bytes(data[:at] + struct.pack("<I", int(gguf.GGMLQuantizationType.I32)) + data[at + 4 :])
    with pytest.raises(NotACheckpoint, match="type I32, which cannot be dequantised"):
        open_checkpoint(str(path))
