"""The packing of what a chunk lost: read back as written, refused where it is damaged."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.deltas.corrections import pack, unpack
from pipeline.errors import CorruptFile
from pipeline.tensors.arithmetic import Corrections
from pipeline.tensors.dtypes import BF16, F16, F32, F64

ELEMENTS = 1000
POSITIONS = st.lists(st.integers(0, ELEMENTS - 1), unique=True, max_size=20).map(sorted)
KINDS = list(product((F32, F64), (BF16, F16, F32, F64)))


def corrections(rest_at, lost_at, width, post, seed=1) -> Corrections:
    """Corrections at these positions with random values."""
    rng = np.random.default_rng(seed)
    return Corrections(
        np.array(rest_at, np.uint32),
        rng.integers(-(1 << 30), 1 << 30, len(rest_at)).astype(f"<i{width.itemsize}"),
        np.array(lost_at, np.uint32),
        rng.integers(0, 1 << 15, len(lost_at)).astype(post.bits),
    )


def read(data: bytes, width=F32, post=BF16, elements=ELEMENTS) -> Corrections:
    array = np.frombuffer(data, np.uint8)
    return unpack(array, elements=elements, width=width, post=post, where="x.safetensors")


@settings(max_examples=100, deadline=None)
@given(POSITIONS, POSITIONS, st.sampled_from(KINDS))
def test_what_is_packed_is_read_back(rest_at, lost_at, kinds):
    width, post = kinds
    before = corrections(rest_at, lost_at, width, post)
    after = read(pack(before), width, post)
    for name in ("rest_at", "rest", "lost_at", "lost"):
        left, right = getattr(before, name), getattr(after, name)
        np.testing.assert_array_equal(left, right)
        assert left.dtype.itemsize == right.dtype.itemsize


@pytest.mark.parametrize(("width", "post"), KINDS, ids=str)
def test_a_chunk_that_lost_nothing_takes_no_bytes(width, post):
    assert pack(corrections([], [], width, post)) == b""
    nothing = read(b"", width, post)
    assert [len(part) for part in (nothing.rest_at, nothing.rest, nothing.lost_at, nothing.lost)] == [
        0
    ] * 4


def test_the_bytes_are_what_the_specification_says():
    lost = Corrections(
        np.array([3, 9], np.uint32), np.array([-1, 258], np.int32),
        np.array([5], np.uint32), np.array([0x8000], np.uint16),
    )  # fmt: skip
    wanted = "02000000 01000000 03000000 09000000 ffffffff 02010000 05000000 0080"
    assert pack(lost).hex() == wanted.replace(" ", "")


@settings(max_examples=60, deadline=None)
@given(POSITIONS, POSITIONS.filter(bool), st.data())
def test_a_payload_of_another_length_is_refused(rest_at, lost_at, data):
    payload = pack(corrections(rest_at, lost_at, F32, BF16))
    cut = data.draw(st.integers(1, len(payload) - 1))
    for damaged in (payload[:cut], payload + b"\0"):
        with pytest.raises(CorruptFile, match=r"x\.safetensors.*corrections"):
            read(damaged)


@pytest.mark.parametrize(
    "counts", [(1 << 31, 0), (0, 1 << 31), (0xFFFFFFFF, 0xFFFFFFFF), (2, 0), (0, 2)]
)
def test_counts_that_the_bytes_do_not_bear_out_are_refused(counts):
    payload = np.array(counts, "<u4").tobytes() + bytes(8)
    with pytest.raises(CorruptFile, match="corrections"):
        read(payload)


@pytest.mark.parametrize("position", [ELEMENTS, ELEMENTS + 1, 0xFFFFFFFF])
def test_a_position_outside_the_chunk_is_refused(position):
    for rest_at, lost_at in (([1, position], []), ([], [1, position])):
        with pytest.raises(CorruptFile, match="outside"):
            read(pack(corrections(rest_at, lost_at, F32, BF16)))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(KINDS), st.integers(0, 5))
def test_noise_is_refused_or_stays_inside_the_chunk(noise, kinds, elements):
    try:
        found = read(noise, *kinds, elements)
    except CorruptFile:
        return
    assert all(at < elements for at in (*found.rest_at, *found.lost_at))
    assert (len(found.rest_at), len(found.lost_at)) == (len(found.rest), len(found.lost))
