"""A fingerprint is a digest of content: dtype, shape, every bit, names; nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.tensors.dtypes import BF16, BY_NAME, F16, F32
from pipeline.tensors.fingerprint import (
    DIGEST_BYTES,
    Digest,
    digest_bytes,
    digest_into,
    fold_checkpoint,
    fold_tensor,
)


def fingerprint(data: bytes, dtype, shape) -> Digest:
    """A tensor's fingerprint as the pipeline makes it: chunk by chunk, then folded."""
    size = CHUNK_ELEMENTS * dtype.itemsize
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    rows = np.zeros((len(chunks), DIGEST_BYTES), np.uint8)
    for row, chunk in zip(rows, chunks, strict=True):
        digest_into(row, chunk)
    return fold_tensor(dtype, shape, rows)


def test_a_tensors_fingerprint_is_what_the_specification_says():
    count = 2 * CHUNK_ELEMENTS + 3
    data = np.random.default_rng(1).bytes(2 * count)
    cut = 2 * CHUNK_ELEMENTS
    chunks = b"".join(blake3(data[at : at + cut]).digest() for at in (0, cut, 2 * cut))
    wanted = blake3(f"paramdelta tensor 1\nBF16\n1,{count}\n".encode() + chunks).hexdigest()
    assert str(fingerprint(data, BF16, (1, count))) == wanted


def test_a_checkpoints_fingerprint_is_what_the_specification_says():
    digests = {"b": digest_bytes(b"two"), "a": digest_bytes(b"one"), "ü": digest_bytes(b"three")}
    text = b"paramdelta checkpoint 1\n"
    for name, content in (("a", b"one"), ("b", b"two"), ("ü", b"three")):
        text += name.encode() + b"\0" + blake3(content).digest()
    assert str(fold_checkpoint(digests)) == blake3(text).hexdigest()


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_a_digest_of_parts_is_that_of_the_whole(parts):
    row = np.zeros(DIGEST_BYTES, np.uint8)
    digest_into(row, *parts)
    assert row.tobytes() == digest_bytes(b"".join(parts)).raw == blake3(b"".join(parts)).digest()


@given(st.binary(min_size=1, max_size=40).map(lambda data: data * 4), st.data())
def test_any_bit_changes_the_fingerprint(data, draw):
    bit = draw.draw(st.integers(0, 8 * len(data) - 1))
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    shape = (len(data) // 4,)
    assert fingerprint(data, F32, shape) != fingerprint(bytes(flipped), F32, shape)


def test_the_bits_of_minus_zero_and_of_nans_count():
    patterns = [0x0000, 0x8000, 0x7FC0, 0x7FC1, 0xFFC0]
    found = {fingerprint(np.array([p], "<u2").tobytes(), BF16, (1,)) for p in patterns}
    assert len(found) == len(patterns)


def test_dtype_and_shape_change_the_fingerprint():
    data = bytes(24)
    found = {
        fingerprint(data, dtype, shape)
        for dtype, shape in [
            (BF16, (12,)), (F16, (12,)), (BY_NAME["I16"], (12,)), (F32, (6,)),
            (BF16, (3, 4)), (BF16, (4, 3)), (BF16, (12, 1)), (BF16, (1, 12)),
        ]
    }  # fmt: skip
    assert len(found) == 8


def test_a_scalar_and_empty_tensors_have_fingerprints_of_their_own():
    found = {
        fingerprint(bytes(2), BF16, ()),
        fingerprint(bytes(2), BF16, (1,)),
        fingerprint(b"", BF16, (0,)),
        fingerprint(b"", BF16, (0, 4)),
        fingerprint(b"", F16, (0,)),
    }
    assert len(found) == 5


def test_names_count_and_their_order_does_not():
    one, two = digest_bytes(b"1"), digest_bytes(b"2")
    assert fold_checkpoint({"a": one, "b": two}) == fold_checkpoint({"b": two, "a": one})
    different = [{"a": one, "b": two}, {"a": two, "b": one}, {"a": one, "c": two}, {"a": one}, {}]
    assert len({fold_checkpoint(tensors) for tensors in different}) == len(different)


@given(st.binary(min_size=DIGEST_BYTES, max_size=DIGEST_BYTES))
def test_a_digest_is_read_back_as_it_is_written(raw):
    digest = Digest(raw)
    assert len(str(digest)) == 2 * DIGEST_BYTES
    assert Digest.parse(str(digest)) == digest


@pytest.mark.parametrize("text", ["", "00", "0" * 63, "0" * 65, "0" * 66, "g" * 64, "é" * 64])
def test_what_is_not_64_hexadecimal_digits_is_no_digest(text):
    with pytest.raises(ValueError, match=r"digest|hexadecimal"):
        Digest.parse(text)
