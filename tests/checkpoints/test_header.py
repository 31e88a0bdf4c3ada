"""Reading a safetensors header: everything that the format allows, and nothing else."""

from __future__ import annotations

import json
import re

import pytest
import torch
from checkpoints.files import entry, pack, reader
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.torch import save

from pipeline.checkpoints.header import MAX_HEADER_BYTES, read_header
from pipeline.errors import CorruptFile
from pipeline.tensors.dtypes import TORCH_NAMES

DTYPES = [getattr(torch, name) for name in TORCH_NAMES]
TENSORS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(
        lambda name: name != "__metadata__"
    ),
    st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=4)),
    max_size=8,
)
GOOD = pack({"__metadata__": {"format": "pt"}, "a": entry(0, 8), "b": entry(8, 20)}, bytes(20))


def refused(data: bytes) -> str:
    """The message of the CorruptFile that `data` must give."""
    with pytest.raises(CorruptFile) as error:
        read_header(reader(data))
    return str(error.value)


@settings(max_examples=60, deadline=None)
@given(TENSORS, st.none() | st.dictionaries(st.text("abc", max_size=5), st.text("xyz", max_size=5)))
def test_whatever_the_safetensors_library_writes_is_read(tensors, metadata):
    state = {n: torch.zeros(shape, dtype=torch.uint8).to(dtype) for n, (dtype, shape) in tensors.items()}
    data = save(state, metadata or None)  # the library writes nonsense for {} and no tensors
    header = read_header(reader(data))
    assert header.metadata == (metadata or {})
    assert {e.name: e.shape for e in header.entries} == {n: tuple(t.shape) for n, t in state.items()}
    for found in header.entries:
        tensor = state[found.name]
        assert found.dtype is TORCH_NAMES[str(tensor.dtype).removeprefix("torch.")]
        assert (found.count, found.nbytes) == (tensor.numel(), tensor.nbytes)
        assert data[found.offset : found.offset + found.nbytes] == bytes(tensor.nbytes)
    offsets = [found.offset for found in header.entries]
    assert offsets == sorted(offsets)


def test_a_file_without_tensors_and_one_without_metadata_are_read():
    assert read_header(reader(pack({}))).entries == ()
    assert read_header(reader(pack({"a": entry(0, 4)}, bytes(4)))).metadata == {}


def test_a_header_may_be_padded_with_spaces():
    text = json.dumps({"a": entry(0, 4)}) + " " * 1000
    assert read_header(reader(pack(text, bytes(4)))).entries[0].offset == 8 + len(text)


def test_a_header_larger_than_the_first_read_is_read_whole():
    names = {f"layer.{i}": entry(4 * i, 4 * i + 4) for i in range(10_000)}
    header = read_header(reader(pack(names, bytes(40_000))))
    assert [found.name for found in header.entries] == list(names)


def test_a_file_that_is_cut_off_anywhere_is_refused():
    for size in range(len(GOOD)):
        assert "x.safetensors" in refused(GOOD[:size])


@pytest.mark.parametrize(
    ("header", "size", "message"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, 12, "'b' begins"),
        ({"a": entry(0, 8), "b": entry(0, 8)}, 8, "'b' begins"),
        ({"a": entry(0, 4), "b": entry(8, 12)}, 12, "'b' begins"),
        ({"a": entry(4, 8)}, 8, "'a' begins"),
        ({"a": entry(0, 4)}, 8, "its tensors end"),
        ({"a": entry(0, 8)}, 4, "its tensors end"),
        ({"a": entry(0, 1 << 62, shape=[1 << 60])}, 4, "'a'|its tensors end"),
        ({"a": entry(8, 4, shape=[1])}, 8, "'a' of shape"),
        ({"a": entry(0, 8, shape=[3])}, 8, "'a' of shape"),
        ({"a": entry(0, 8, shape=[2, 0])}, 8, "'a' of shape"),
        ({"a": entry(0, 0, shape=[1 << 62, 4, 0])}, 0, "'a'"),
    ],
    ids=[
        "overlap", "the same bytes twice", "hole", "hole at the front", "bytes left over",
        "beyond the end", "far beyond the end", "backwards", "shape and bytes differ",
        "empty shape with bytes", "a shape that no program can hold",
    ],
)  # fmt: skip
def test_bytes_must_belong_to_exactly_one_tensor(header, size, message):
    assert re.search(message, refused(pack(header, bytes(size))))


@pytest.mark.parametrize("length", [MAX_HEADER_BYTES + 1, 1 << 40, (1 << 64) - 1])
def test_an_oversize_header_is_refused_without_being_read(length):
    assert str(length) in refused(pack({}, length=length))


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "{", "[]", "null", "1", '"a"', "{}x", "{'a': 1}", b"\xff{}", b"\xef\xbb\xbf{}",
        "[" * 100_000, '{"a":' * 100_000, '{"__metadata__": {"n": ' + "9" * 5000 + "}}",
    ],
    ids=lambda text: repr(text[:12]),
)  # fmt: skip
def test_a_header_must_be_a_json_object(text):
    refused(pack(text))


def test_a_name_must_not_occur_twice():
    one = json.dumps(entry(0, 4))
    refused(pack(f'{{"a": {one}, "a": {one}}}', bytes(4)))
    refused(pack('{"__metadata__": {"k": "1", "k": "2"}}'))
    refused(
        pack('{"a": {"dtype": "F32", "dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}', bytes(4))
    )


@pytest.mark.parametrize("metadata", [None, [], "text", {"n": 1}, {"n": None}, {"n": {"m": "x"}}])
def test_metadata_must_be_an_object_of_strings(metadata):
    assert "__metadata__" in refused(pack({"__metadata__": metadata}))


@pytest.mark.parametrize(
    "value",
    [
        None, [], "F32", {}, {"dtype": "F32", "shape": [1]}, {**entry(0, 4), "more": 1},
        entry(0, 4, dtype=1), entry(0, 4, dtype=["F32"]), entry(0, 4, dtype=None),
        entry(0, 4, shape=1), entry(0, 4, shape=["1"]), entry(0, 4, shape=[1.0]),
        entry(0, 4, shape=[True]), entry(0, 4, shape=[-1, -1]), entry(0, 4, shape=[1 << 63]),
        {**entry(0, 4), "data_offsets": [0]}, {**entry(0, 4), "data_offsets": [0, 4, 4]},
        {**entry(0, 4), "data_offsets": [0.0, 4]}, {**entry(0, 4), "data_offsets": [-4, 0]},
        {**entry(0, 4), "data_offsets": "04"}, {**entry(0, 4), "data_offsets": [False, 4]},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_a_tensor_must_be_described_by_dtype_shape_and_offsets(value):
    assert "'a'" in refused(pack({"a": value}, bytes(4)))


def test_a_shape_whose_size_no_one_can_print_is_refused():
    assert "'a'" in refused(pack({"a": entry(0, 4, shape=[1 << 62] * 300)}, bytes(4)))


def test_a_name_that_is_not_unicode_is_refused():
    refused(pack('{"\\ud800": ' + json.dumps(entry(0, 4)) + "}", bytes(4)))


@pytest.mark.parametrize("dtype", ["F4", "Q8", "f32", "BF16 ", ""])
def test_an_unknown_dtype_is_named_with_those_that_are_known(dtype):
    message = refused(pack({"a": entry(0, 4, dtype=dtype)}, bytes(4)))
    assert repr(dtype) in message
    assert "BF16, F16, F32" in message


def check_as_strict_as_the_library(data: bytes) -> None:
    """We may refuse `data` with CorruptFile, and must if the library refuses it."""
    try:
        read_header(reader(data))
    except CorruptFile:
        return
    try:
        deserialize(data)
    except SafetensorError as error:
        raise AssertionError(f"accepted by us only: {data!r}") from error


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_is_refused_or_harmless(data):
    damaged = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(GOOD) - 20))
        damaged[at] = data.draw(st.integers(0, 255))
    check_as_strict_as_the_library(bytes(damaged))


SIZES = st.sampled_from(
    [0, 1, 2, 4, 8, 12, 1 << 31, 1 << 62, (1 << 63) - 1, 1 << 64, -1, 0.5, None, "1"]
)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F32", "BF16", "U8", "BOOL", "X", 3, None]),
        "shape": st.lists(SIZES, max_size=4),
        "data_offsets": st.lists(SIZES, min_size=1, max_size=3),
    },
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "__metadata__", "é", "\ud800"]),
        FIELDS | st.dictionaries(st.text(max_size=2), st.text(max_size=2), max_size=2),
        max_size=3,
    ),
    st.sampled_from([0, 4, 8, 12]),
)
def test_a_hostile_header_is_refused_where_the_library_refuses_it(header, size):
    check_as_strict_as_the_library(pack(header, bytes(size)))


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_noise_is_no_header(data):
    refused(data)
