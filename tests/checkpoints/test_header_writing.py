"""Writing a safetensors header: the library reads it, and its size can be fixed beforehand."""

from __future__ import annotations

import pytest
from checkpoints.files import reader
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import deserialize

from pipeline.checkpoints.header import (
    MAX_HEADER_BYTES,
    Tensor,
    aligned_order,
    build_header,
    read_header,
)
from pipeline.errors import CorruptFile
from pipeline.tensors.dtypes import BF16, BY_NAME, F32, F64, U8

TENSORS = st.lists(
    st.builds(
        Tensor,
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=10).filter(
            lambda name: name != "__metadata__"
        ),
        st.sampled_from(list(BY_NAME.values())),
        st.lists(st.integers(0, 4), max_size=3).map(tuple),
    ),
    max_size=8,
    unique_by=lambda tensor: tensor.name,
)


few = settings(max_examples=40, deadline=None)


@few
@given(TENSORS, st.dictionaries(st.text("abé", max_size=4), st.text("xyz\n", max_size=4)))
def test_the_safetensors_library_reads_what_we_write(tensors, metadata):
    total = sum(tensor.nbytes for tensor in tensors)
    data = bytes(i % 251 for i in range(total))
    file = build_header(tensors, metadata) + data
    at = 0
    wanted = {}
    for tensor in tensors:
        wanted[tensor.name] = (tensor.dtype.name, list(tensor.shape), data[at : at + tensor.nbytes])
        at += tensor.nbytes
    found = {n: (f["dtype"], f["shape"], bytes(f["data"])) for n, f in deserialize(file)}
    assert found == wanted


@few
@given(TENSORS, st.dictionaries(st.text("ab", max_size=4), st.text("xyz", max_size=4)))
def test_we_read_back_what_we_write(tensors, metadata):
    head = build_header(tensors, metadata)
    header = read_header(reader(head + bytes(sum(tensor.nbytes for tensor in tensors))))
    found = {(e.name, e.dtype, e.shape) for e in header.entries}
    assert found == {(t.name, t.dtype, t.shape) for t in tensors}
    assert header.metadata == metadata


@few
@given(TENSORS)
def test_tensors_begin_on_a_cache_line(tensors):
    assert len(build_header(tensors, {})) % 64 == 0


@few
@given(TENSORS, st.integers(0, 100))
def test_a_header_fills_the_room_that_was_kept_for_it(tensors, spare):
    needed = len(build_header(tensors, {"k": "v"}))
    head = build_header(tensors, {"k": "v"}, room=needed + spare)
    assert len(head) == needed + spare
    header = read_header(reader(head + bytes(sum(tensor.nbytes for tensor in tensors))))
    assert len(header.entries) == len(tensors)


def test_a_header_that_does_not_fit_is_an_error_not_a_broken_file():
    tensors = [Tensor("a", F32, (4,))]
    with pytest.raises(CorruptFile, match="does not fit"):
        build_header(tensors, {}, room=20)
    with pytest.raises(CorruptFile, match="does not fit"):
        build_header(tensors, {}, room=MAX_HEADER_BYTES + 9)


@few
@given(TENSORS)
def test_in_aligned_order_every_tensor_lies_on_a_multiple_of_its_element_size(tensors):
    ordered = aligned_order(tensors)
    assert sorted(ordered, key=lambda t: t.name) == sorted(tensors, key=lambda t: t.name)
    at = 0
    for tensor in ordered:
        assert at % tensor.dtype.itemsize == 0
        at += tensor.nbytes


def test_aligned_order_keeps_the_order_of_equally_wide_tensors():
    tensors = [Tensor(n, d, (1,)) for n, d in zip("abcdef", (U8, BF16, F64, BF16, U8, F32), strict=True)]
    assert "".join(tensor.name for tensor in aligned_order(tensors)) == "cfbdae"
