"""Encoded chunks: what comes back, how small they are, and that their bytes mean what is specified."""

from __future__ import annotations

import numpy as np
import pytest
from codec_reference import decode
from codec_samples import CHUNK, chunks, entropy_bytes, heavy, light

from pipeline.codecs.chunks import ChunkCodec, encoded_bound
from pipeline.codecs.kernels import has_vectors

CHUNKS = dict(chunks())
RAW, CONSTANT, CODED, SPLIT = range(4)


def encode(values, codec=None):
    data = values.view(np.uint8)
    out = np.full(encoded_bound(len(data)), 0xEE, np.uint8)
    return out[: (codec or ChunkCodec()).encode(data, values.itemsize, out)].tobytes()


def decode_ours(payload, values, codec=None):
    """The values again; what lies around them in memory must stay."""
    around = np.full(values.nbytes + 128, 0xDD, np.uint8)
    out = around[64:-64]
    (codec or ChunkCodec()).decode(np.frombuffer(payload, np.uint8), values.itemsize, out)
    assert (around[:64] == 0xDD).all() and (around[-64:] == 0xDD).all()
    return out.view(values.dtype)


@pytest.mark.parametrize("name", CHUNKS)
def test_every_chunk_comes_back_from_either_loop_whichever_wrote_it(name):
    values = CHUNKS[name]
    plain, wide = ChunkCodec(vectors=False), ChunkCodec()
    payload = encode(values, plain)
    assert payload == encode(values, wide)
    assert len(payload) <= values.nbytes + 1
    for codec in (plain, wide):
        np.testing.assert_array_equal(decode_ours(payload, values, codec), values)


@pytest.mark.parametrize("name", [n for n, v in CHUNKS.items() if len(v) < 70_000 or n == "heavy"])
def test_the_bytes_mean_what_the_format_says(name):
    values = CHUNKS[name]
    assert decode(encode(values), len(values), values.itemsize) == values.tobytes()


@pytest.mark.parametrize("make", [heavy, light])
def test_a_fine_tune_takes_at_most_one_hundredth_more_than_its_entropy(make):
    values = make(seed=3)
    assert len(encode(values)) < 1.01 * entropy_bytes(values)


@pytest.mark.parametrize(
    ("values", "payload"),
    [
        (np.zeros(0, np.uint16), b""),
        (np.zeros(CHUNK, np.uint16), bytes([CONSTANT])),
        (np.zeros(9, np.uint64), bytes([CONSTANT])),
        (np.full(5, 0x1234, np.uint16), bytes([CONSTANT, 0x34, 0x12])),
        (np.array([1, 2], np.uint16), bytes([RAW, 1, 0, 2, 0])),
    ],
    ids=["nothing", "zeros", "wide zeros", "a constant", "two values"],
)
def test_small_payloads_are_the_bytes_of_the_specification(values, payload):
    assert encode(values) == payload
    assert decode_ours(payload, values).tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("name", "method"),
    [("heavy", CODED), ("noise of 16 bits", RAW), ("float32", SPLIT), ("skewed bytes", CODED)],
)
def test_the_method_is_the_one_that_suits(name, method):
    assert encode(CHUNKS[name])[0] == method


def test_a_codec_that_was_used_before_writes_the_same_bytes():
    used = ChunkCodec()
    for values in CHUNKS.values():
        encode(values, used)
    for name in ("heavy", "light", "float64", "skewed bytes", "63 of 16 bits"):
        assert encode(CHUNKS[name], used) == encode(CHUNKS[name])


def test_odd_addresses_do_not_matter():
    values = heavy(20_000)
    room = np.empty(values.nbytes + 1, np.uint8)
    room[1:] = values.view(np.uint8)
    out = np.empty(encoded_bound(values.nbytes), np.uint8)
    size = ChunkCodec().encode(room[1:], 2, out)
    assert out[:size].tobytes() == encode(values)


def test_nothing_behind_the_bound_is_written():
    for values in CHUNKS.values():
        data = values.view(np.uint8)
        bound = encoded_bound(len(data))
        around = np.full(bound + 256, 0xDD, np.uint8)
        ChunkCodec().encode(data, values.itemsize, around[:bound])
        assert (around[bound:] == 0xDD).all()


def test_elements_that_are_not_whole_are_refused():
    with pytest.raises(ValueError, match="no chunk"):
        ChunkCodec().encode(np.zeros(3, np.uint8), 2, np.zeros(9, np.uint8))
    with pytest.raises(ValueError, match="no chunk"):
        ChunkCodec().encode(np.zeros(CHUNK + 1, np.uint8), 1, np.zeros(CHUNK + 2, np.uint8))


@pytest.mark.skipif(not has_vectors(), reason="this processor has no AVX-512")
def test_the_vector_loops_are_at_work_here():
    assert ChunkCodec()._rans._work._vectors and not ChunkCodec(vectors=False)._rans._work._vectors
