"""Chunks as they come, and some that seldom do."""

from __future__ import annotations

import numpy as np

CHUNK = 1 << 19


def bf16(values):
    """The bits of the nearest bfloat16."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def floats(bits):
    """The values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def heavy(count=CHUNK, seed=0):
    """The bfloat16 delta of a heavy fine-tune: every weight moves by 1% of their deviation."""
    random = np.random.default_rng(seed)
    base = bf16(random.normal(0, 0.02, count))
    post = bf16(floats(base) + random.normal(0, 0.0002, count))
    return bf16(floats(post) - floats(base))


def light(count=CHUNK, seed=0):
    """The bfloat16 delta of a light fine-tune: a third of the weights move by a unit or two."""
    random = np.random.default_rng(seed)
    base = bf16(random.normal(0, 0.02, count))
    step = random.choice([-2, -1, 0, 1, 2], count, p=[0.04, 0.14, 0.64, 0.14, 0.04])
    return bf16(floats((base + step).astype(np.uint16)) - floats(base))


def entropy_bytes(values):
    """The order-0 entropy bound of a chunk."""
    counts = np.unique(values, return_counts=True)[1]
    return float(counts @ np.log2(len(values) / counts)) / 8


def chunks():
    """(name, array) of every kind: each is encoded with its own element width."""
    random = np.random.default_rng(7)
    skewed = random.geometric(0.3, 40_000).astype(np.uint16)
    yield "heavy", heavy()
    yield "light", light()
    yield "every 16-bit pattern", np.arange(1 << 16, dtype=np.uint16)
    yield (
        "every 16-bit pattern, most of them seldom",
        np.concatenate((np.arange(1 << 16, dtype=np.uint16), np.zeros(400_000, np.uint16))),
    )
    yield "two values in turn", np.tile(np.array([0, 0x8000], np.uint16), 50_000)
    yield "one value once", np.concatenate((np.full(300_000, 7, np.uint16), np.array([9], np.uint16)))
    yield (
        "escapes that the sample misses",
        np.concatenate(
            [
                part
                for k in range(1100)
                for part in (np.full(264, 5, np.uint16), np.array([k], np.uint16))
            ]
        ),
    )
    yield "all zero", np.zeros(CHUNK, np.uint16)
    yield "all the same", np.full(12_345, 0xABCD, np.uint16)
    yield "noise of 16 bits", random.integers(0, 1 << 16, 100_001, np.uint16)
    yield "noise of 8 bits", random.integers(0, 1 << 8, 100_001, np.uint8)
    yield "skewed bytes", skewed.astype(np.uint8)
    yield "float16", random.normal(0, 1e-3, 70_001).astype(np.float16).view(np.uint16)
    yield "float32", random.normal(0, 1e-3, CHUNK).astype(np.float32).view(np.uint32)
    yield "float32 of bfloat16 values", light().astype(np.uint32) << 16
    yield "float64", random.normal(0, 1e-3, 65_537).view(np.uint64)
    yield "float64, few values", skewed.astype(np.float64).view(np.uint64)
    for count in (1, 2, 3, 63, 64, 65, 4095, 4096, 4097, 16383, 16384, 16385, (1 << 18) + 17):
        yield f"{count} of 16 bits", heavy(count, count)
        yield f"{count} of 8 bits", skewed[:count].astype(np.uint8)
        yield f"{min(count, 40_000)} of 64 bits", skewed[:count].astype(np.uint64)
