"""A delta restores post on its own base bit for bit, whatever the bits are and whoever computes."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from tensors.reference import (
    FLOATS,
    IMPLEMENTATIONS,
    operand,
    pairs,
    restore,
    specials,
    subtract,
    values,
    weights,
)

from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.tensors.dtypes import BF16, F16, F32, F64

by_all = pytest.mark.parametrize(
    ("first", "second"),
    [
        pytest.param(IMPLEMENTATIONS[one], IMPLEMENTATIONS[two], id=f"{one}-then-{two}")
        for one, two in product(IMPLEMENTATIONS, repeat=2)
    ],
)


def check_restored(first, second, ours, post, theirs, base, stored):
    """Compute with `first`, restore with `second`: post's bits must be there again."""
    _, kept, lost = subtract(first, operand(ours, post), operand(theirs, base), stored)
    found = restore(second, operand(theirs, base), kept, lost, post)
    np.testing.assert_array_equal(found, ours)


@by_all
@pytest.mark.parametrize("base", FLOATS, ids=str)
@pytest.mark.parametrize("post", FLOATS, ids=str)
def test_post_is_restored_in_every_combination_of_formats(first, second, post, base):
    ours, theirs = pairs(post, base)
    for stored in FLOATS:
        check_restored(first(), second(), ours, post, theirs, base, stored)


@by_all
@pytest.mark.parametrize("stored", FLOATS, ids=str)
def test_all_65536_bfloat16_patterns_are_restored_on_bases_of_every_kind(first, second, stored):
    every = np.arange(1 << 16, dtype=np.uint16)
    samples = [0x0000, 0x8000, 0x0001, 0x3F80, 0xBC23, 0x7F7F, 0xFF80, 0x7FC1]
    ours = np.tile(every, len(samples))
    theirs = np.repeat(np.array(samples, np.uint16), len(every))
    assert len(ours) == CHUNK_ELEMENTS
    check_restored(first(), second(), ours, BF16, theirs, BF16, stored)


@by_all
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_an_unchanged_tensor_is_restored_nans_included(first, second, dtype):
    same = np.concatenate([specials(dtype), weights(dtype, 1000, 1)])
    check_restored(first(), second(), same, dtype, same, dtype, dtype)


@by_all
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_rows_that_the_base_lacks_are_restored(first, second, dtype):
    ours, theirs = pairs(dtype, dtype)
    for rows in (0, 1, 700):
        check_restored(first(), second(), ours, dtype, theirs[:rows], dtype, BF16)


@pytest.mark.parametrize("make", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
def test_a_fine_tunes_delta_within_a_factor_of_two_needs_no_correction(make):
    old = weights(BF16, 20000, 1)
    numbers = values(old, BF16, np.float64)
    new = weights(BF16, 20000, 2, close_to=numbers)
    near = np.abs(values(new, BF16, np.float64) / numbers - 1) < 0.5
    _, _, lost = subtract(make(), operand(new[near], BF16), operand(old[near], BF16), BF16)
    assert near.mean() > 0.9
    assert (len(lost.rest_at), len(lost.lost_at)) == (0, 0)


@pytest.mark.parametrize("make", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("post", "stored"), [(BF16, BF16), (F16, F16), (F32, BF16), (F64, F32)], ids=str
)
def test_exceptions_hold_the_bits_of_post_at_their_place(make, post, stored):
    ours, theirs = pairs(post, post)
    _, _, lost = subtract(make(), operand(ours, post), operand(theirs, post), stored)
    np.testing.assert_array_equal(lost.lost, ours[lost.lost_at])
    assert lost.lost.dtype.itemsize == post.itemsize


@by_all
def test_a_whole_chunk_of_exceptions_and_remainders_is_restored(first, second):
    ours = np.full(CHUNK_ELEMENTS, 0x8000, np.uint16)  # -0.0 on -0.0: nothing but exceptions
    check_restored(first(), second(), ours, BF16, ours, BF16, BF16)
    rng = np.random.default_rng(1)
    post = rng.integers(0, 1 << 32, CHUNK_ELEMENTS, np.uint32)
    base = rng.integers(0, 1 << 32, CHUNK_ELEMENTS, np.uint32)
    check_restored(first(), second(), post, F32, base, F32, BF16)
    wide = rng.integers(0, 1 << 64, CHUNK_ELEMENTS // 8, np.uint64)
    check_restored(first(), second(), wide, F64, base[: CHUNK_ELEMENTS // 8], F32, F16)
