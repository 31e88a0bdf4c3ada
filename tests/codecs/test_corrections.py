"""Packed corrections: what comes back, how little they take, and what is refused."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from codec_samples import CHUNK, bf16, floats

from pipeline.codecs.chunks import ChunkCodec
from pipeline.codecs.corrections import corrections_bound, pack_corrections, unpack_corrections
from pipeline.errors import CorruptFile
from pipeline.tensors.arithmetic import Corrections, CpuArithmetic, Operand
from pipeline.tensors.dtypes import BF16, F16, F32, F64

CODEC = ChunkCodec()


def corrections(rest_at, rest, lost_at, lost, *, width=F32, post=BF16):
    return Corrections(
        np.array(rest_at, np.uint32),
        np.array(rest, f"<i{width.itemsize}"),
        np.array(lost_at, np.uint32),
        np.array(lost, post.bits),
    )


def pack(given):
    out = np.empty(corrections_bound(given), np.uint8)
    return out[: pack_corrections(given, out, CODEC)].copy()


def unpack(data, *, elements=CHUNK, width=F32, post=BF16):
    return unpack_corrections(
        data, elements=elements, width=width, post=post, codec=CODEC, where="x.delta"
    )


def same(left, right):
    for name in ("rest_at", "rest", "lost_at", "lost"):
        np.testing.assert_array_equal(getattr(left, name), getattr(right, name))
        assert getattr(left, name).dtype == getattr(right, name).dtype


@pytest.mark.parametrize("post", [BF16, F16, F32, F64], ids=str)
@pytest.mark.parametrize("width", [F32, F64], ids=str)
@pytest.mark.parametrize("count", [0, 1, 2, 1000, CHUNK])
def test_corrections_come_back(count, width, post):
    random = np.random.default_rng(count)
    at = np.sort(random.choice(CHUNK, count, replace=False))
    low, high = np.iinfo(f"i{width.itemsize}").min, np.iinfo(f"i{width.itemsize}").max
    rest = random.integers(low, high, count, f"i{width.itemsize}", endpoint=True)
    rest[:2] = [low, high][:count]
    lost = random.integers(0, 1 << 16, count)
    given = corrections(at, rest, at[::2], lost[::2], width=width, post=post)
    same(unpack(pack(given), width=width, post=post), given)


def test_nothing_lost_takes_no_byte():
    given = corrections([], [], [], [])
    assert len(pack(given)) == 0
    same(unpack(pack(given)), given)


def test_only_exceptions_come_back():
    given = corrections([], [], [0, CHUNK - 1], [0x7FC1, 0x8000])
    same(unpack(pack(given)), given)


def test_half_a_percent_of_remainders_takes_little_more():
    """A heavy fine-tune: 0.54% of the elements, at most 0.6% of the bytes."""
    random = np.random.default_rng(0)
    base = bf16(random.normal(0, 0.02, CHUNK))
    post = bf16(floats(base) + random.normal(0, 0.0002, CHUNK))
    stored = np.empty(2 * CHUNK, np.uint8)
    operands = (Operand(bits.view(np.uint8), BF16) for bits in (post, base, stored))
    lost = CpuArithmetic().subtract(*operands).lost
    packed = pack(lost)
    assert 0.005 < len(lost.rest_at) / CHUNK < 0.006
    assert len(packed) / (2 * CHUNK) < 0.006
    same(unpack(packed), lost)


def test_positions_outside_the_chunk_are_refused():
    packed = pack(corrections([5, 99], [1, -1], [], []))
    assert len(unpack(packed, elements=100).rest_at) == 2
    with pytest.raises(CorruptFile, match="outside its chunk"):
        unpack(packed, elements=99)


@pytest.mark.parametrize("counts", [(0, 0), (101, 0), (0, 101), (2**32 - 1, 1)])
def test_counts_that_can_not_be_are_refused(counts):
    packed = pack(corrections([5, 99], [1, -1], [7], [3]))
    packed[:8] = np.frombuffer(struct.pack("<II", *counts), np.uint8)
    with pytest.raises(CorruptFile):
        unpack(packed, elements=100)


def test_damage_is_refused_or_stays_within_bounds():
    random = np.random.default_rng(4)
    at = np.sort(random.choice(20_000, 500, replace=False))
    packed = pack(corrections(at, random.integers(-300, 300, 500), at[:9], np.arange(9)))
    for number in range(1500):
        damaged = packed.copy()
        if number % 3:
            damaged[random.integers(len(damaged) if number % 2 else 60)] ^= 1 << random.integers(8)
        else:
            damaged = damaged[: random.integers(1, len(damaged))]
        try:
            found = unpack(damaged, elements=20_000)
        except CorruptFile:
            continue
        for positions in (found.rest_at, found.lost_at):
            assert (np.diff(positions.astype(np.int64)) > 0).all()
            assert not len(positions) or positions[-1] < 20_000
