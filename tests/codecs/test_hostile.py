"""Payloads from outside: whatever their bytes, an error or wrong bytes, never a crash or a hang."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from codec_samples import heavy

from pipeline.codecs.chunks import ChunkCodec, encoded_bound
from pipeline.errors import CorruptFile

HEADER = struct.Struct("<BHIHI")
CODED = 2


def encode(values):
    data = values.view(np.uint8)
    out = np.empty(encoded_bound(len(data)), np.uint8)
    return out[: ChunkCodec().encode(data, values.itemsize, out)].copy()


def attempt(codec, payload, itemsize, count):
    """Whether `payload` was decoded; it lies alone in memory, and so does the output."""
    around = np.full(count * itemsize + 256, 0xDD, np.uint8)
    out = around[128:-128]
    try:
        codec.decode(payload, itemsize, out)
    except CorruptFile:
        decoded = False
    else:
        decoded = True
    assert (around[:128] == 0xDD).all() and (around[-128:] == 0xDD).all()
    return decoded


def victims():
    random = np.random.default_rng(1)
    small = np.minimum(random.geometric(0.4, 700), 9)
    return [
        small.astype(np.uint8),
        small.astype(np.uint16),
        heavy(5_000, 2),
        small[:200].astype(np.uint32),
        small[:90].astype(np.uint64) << 40,
        np.full(33, 0x77, np.uint16),
    ]


@pytest.mark.parametrize("vectors", [False, True])
def test_damaged_payloads_are_refused_or_stay_within_bounds(vectors):
    random = np.random.default_rng(5)
    codec = ChunkCodec(vectors=vectors)
    cases = [(values, encode(values)) for values in victims()]
    decoded = 0
    for number in range(10_000):
        values, payload = cases[number % len(cases)]
        match number % 4:
            case 0:  # a few bits, often in the header
                damaged = payload.copy()
                reach = len(damaged) if number % 8 else min(40, len(damaged))
                for at in random.integers(0, reach, random.integers(1, 4)):
                    damaged[at] ^= 1 << random.integers(8)
            case 1:
                damaged = payload[: random.integers(len(payload))]
            case 2:
                damaged = random.integers(0, 256, random.integers(300), np.uint8)
                damaged[:1] = random.integers(5)
            case _:  # bytes put in or taken out
                at = random.integers(len(payload))
                extra = random.integers(0, 256, random.integers(3), np.uint8)
                damaged = np.concatenate((payload[:at], extra, payload[at + 1 :]))
        decoded += attempt(codec, damaged, values.itemsize, len(values))
    assert decoded < 1_000  # flips in raw bytes only: coded ones come out even or not at all


@pytest.mark.parametrize("vectors", [False, True])
def test_damage_in_a_large_chunk_is_refused_or_stays_within_bounds(vectors):
    """Where the vector loops run, and words run out under them."""
    random = np.random.default_rng(6)
    codec = ChunkCodec(vectors=vectors)
    values = heavy(40_000)
    payload = encode(values)
    for number in range(150):
        damaged = payload.copy()
        for at in random.integers(0, len(damaged) if number % 2 else 1200, 2):
            damaged[at] ^= 1 << random.integers(8)
        attempt(codec, damaged, 2, len(values))
        attempt(codec, damaged[: random.integers(len(damaged))], 2, len(values))
        attempt(codec, payload, 2, int(random.integers(1, 100_000)))


def forge(values, **changes):
    """A payload with other fields in its header."""
    payload = encode(values)
    assert payload[0] == CODED
    fields = dict(
        zip(
            ("lanes", "symbols", "escaped", "place", "words"),
            HEADER.unpack_from(payload.data, 1),
            strict=True,
        )
    )
    HEADER.pack_into(payload.data, 1, *(fields | changes).values())
    return payload


@pytest.mark.parametrize(
    "changes",
    [
        {"lanes": 0},
        {"lanes": 65},
        {"lanes": 3},
        {"symbols": 0},
        {"symbols": 8193},
        {"symbols": 65535},
        {"words": 0},
        {"words": 2**32 - 1},
        {"escaped": 2**32 - 1},
        {"escaped": 0},
        {"place": 0x1234},
    ],
    ids=str,
)
def test_headers_that_lie_are_refused(changes):
    values = heavy(20_000)
    codec = ChunkCodec()
    assert attempt(codec, forge(values), 2, len(values))
    assert not attempt(codec, forge(values, **changes), 2, len(values))


@pytest.mark.parametrize("count", [0, 1, 19_999, 20_001, 1 << 19])
def test_a_payload_of_another_number_of_elements_is_refused(count):
    assert not attempt(ChunkCodec(), encode(heavy(20_000)), 2, count)


def test_escapes_that_nest_without_end_are_refused():
    """Each level would hold as many escapes as elements."""
    table = bytes([0, 0, 1, 0xFF, 0x3F])
    level = bytes([CODED]) + HEADER.pack(1, 2, 4, 0, 0) + table + struct.pack("<I", 1 << 15)
    for depth in (1, 2, 5000):
        assert not attempt(ChunkCodec(), np.frombuffer(level * depth, np.uint8), 2, 4)


def test_an_unknown_method_is_named():
    with pytest.raises(CorruptFile, match="unknown codec method 200: a newer version") as caught:
        ChunkCodec().decode(np.array([200, 1], np.uint8), 2, np.empty(4, np.uint8), where="x.delta")
    assert caught.value.where == "x.delta"


@pytest.mark.parametrize(
    ("payload", "itemsize"),
    [
        (b"", 2),
        (b"\0", 2),
        (b"\1\1", 2),
        (b"\3\1\0\0", 2),
        (b"\3\xff\xff\xff\xff\1\1", 2),
        (b"\3\1\0\0\0\1\1", 1),
        (b"\2" + bytes(40), 4),
    ],
)
def test_short_payloads_of_each_method_are_refused(payload, itemsize):
    assert not attempt(ChunkCodec(), np.frombuffer(payload, np.uint8), itemsize, 4)
