"""The parts that methods of fusion are made of: thresholds, bands, chances, election."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tensors.fusion import (
    CERTAIN,
    HIGH_BINS,
    LOW_BINS,
    count_high,
    count_low,
    elect,
    keep_band,
    keep_random,
    random_key,
    rank_limits,
    sum_products,
    sum_sizes,
)
from pipeline.tensors.fusion_select import (
    MOST_BINS,
    MOST_OTHERS,
    Kept,
    Lows,
    Tally,
    ends_of,
    find_band,
    kept_largest,
    kept_middle,
    nothing_kept,
)

FEW = [0.0, -0.0, 1.0, -1.0, 1.0078125, 1.0000001, 1e-40, -3.5, np.inf, -np.inf]
VALUES = st.lists(st.sampled_from(FEW) | st.floats(width=32, allow_nan=False), min_size=1, max_size=60)


def lows(values, high):
    bins = np.zeros(LOW_BINS, np.uint32)
    count_low(values, high, bins)
    return Lows.of(bins)


def tally(values, bins):
    """What the first round finds, which is added to `bins`."""
    own, others = np.zeros(HIGH_BINS, np.uint32), np.empty(len(values) + 1, np.uint32)
    count = count_high(values, own, others)
    bins += own
    return Tally.of(own, others[:count])


def thinned(values, kept: Kept, cuts: list[int]):
    """`values` after both rounds, done chunk by chunk; lists of the first say the same as the second."""
    bins = np.zeros(HIGH_BINS, np.int64)
    edges = sorted({0, len(values), *(cut % len(values) for cut in cuts)})
    chunks = [values[start:stop].copy() for start, stop in pairwise(edges)]
    tallies = [tally(chunk, bins) for chunk in chunks]
    ranks = ends_of(kept, bins)
    if ranks is None:
        band, seen = nothing_kept(len(chunks))
    else:
        found = [(lows(chunk, ranks[0].high), lows(chunk, ranks[1].high)) for chunk in chunks]
        for each, counted in zip(tallies, found, strict=True):
            for rank, wanted in zip(ranks, counted, strict=True):
                known = each.lows(rank.high)
                np.testing.assert_array_equal(known.bits, wanted.bits)
                np.testing.assert_array_equal(known.counts, wanted.counts)
        band, seen = find_band(kept, ranks, found)
    marks = []
    for chunk, before, then in zip(chunks, seen[:-1], seen[1:], strict=True):
        keep_band(chunk, band, before, then)
        marks.append(chunk)
    return np.concatenate(marks)


def expected(values, kept: Kept):
    """By sorting the whole."""
    sizes = abs(values)
    order = np.argsort(sizes, kind="stable")
    if kept.later_first:
        order = np.argsort(-sizes, kind="stable")[::-1]
    mask = np.zeros(len(values), np.float32)
    mask[order[kept.first : kept.stop]] = 1
    with np.errstate(invalid="ignore"):
        return values * mask


@settings(max_examples=25, deadline=None)
@given(VALUES, st.floats(0.01, 1), st.lists(st.integers(0, 59), max_size=3))
def test_the_largest_stay_and_of_equals_the_first(values, density, cuts):
    array = np.array(values, np.float32)
    kept = kept_largest(len(array), density)
    np.testing.assert_array_equal(thinned(array, kept, cuts), expected(array, kept))


@settings(max_examples=25, deadline=None)
@given(VALUES, st.floats(0.01, 1), st.floats(0, 0.5), st.lists(st.integers(0, 59), max_size=3))
def test_the_middle_stays_and_of_equals_those_in_place(values, density, gamma, cuts):
    array = np.array(values, np.float32)
    kept = kept_middle(len(array), density, gamma)
    np.testing.assert_array_equal(thinned(array, kept, cuts), expected(array, kept))


def test_a_chunk_of_too_many_magnitudes_has_no_list_of_them():
    halves = np.arange(MOST_BINS + 1, dtype=np.uint32) << 15
    full = np.full(MOST_OTHERS + 1, 0x3F800001, np.uint32)
    for magnitudes in (halves, full):
        bins = np.zeros(HIGH_BINS, np.uint32)
        assert tally(magnitudes.view(np.float32), bins) is None
        assert bins.sum() == len(magnitudes)
        assert tally(magnitudes[1:].view(np.float32), bins) is not None


def test_what_is_left_out_does_not_hide_a_nan():
    values = np.array([np.nan, 1, 2], np.float32)
    keep_random(values, random_key(0, 0, "w"), 0, 0.0)
    assert np.isnan(values[0])
    assert not values[1:].any()


@pytest.mark.parametrize("start", [0, 1, 1 << 19, 1 << 33])
def test_chance_depends_on_the_place_alone(start):
    key = random_key(5, 1, "model.norm.weight")
    whole, parts = np.ones(1000, np.float32), np.ones(1000, np.float32)
    keep_random(whole, key, start, 0.4)
    for first in range(0, 1000, 7):
        keep_random(parts[first : first + 7], key, start + first, 0.4)
    np.testing.assert_array_equal(whole, parts)
    assert 0.3 < whole.mean() < 0.5


def test_seed_delta_and_tensor_draw_apart():
    keys = {random_key(s, n, name) for s in (0, 1) for n in (0, 1) for name in ("a", "b")}
    assert len(keys) == 8


def test_the_larger_the_likelier_within_a_row():
    rows = np.array([3, -1, 2, 0.5, 0.5, -9], np.float32)
    found = rank_limits(rows, 3, 0.5, 0.25) / CERTAIN
    np.testing.assert_allclose(found, [0.75, 0.25, 0.5, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(rank_limits(rows, 1, 0.5, 0.25) / CERTAIN, 0.5)


def test_a_sum_of_zero_elects_plus():
    deltas = np.array([[1, 2, -3], [-1, 1, -1]], np.float32)
    out = np.empty(3, np.float32)
    elect(deltas, np.array([1, 0.5], np.float32), out, normalize=False)
    np.testing.assert_array_equal(out, [1, 3, -4])
    elect(deltas, np.array([1, 0.5], np.float32), out, normalize=True)
    np.testing.assert_array_equal(out, np.array([1, 2, np.float32(-4) / np.float32(1.5)], np.float32))


def test_sums_are_in_float64():
    values = np.full(2000, 1 + 2**-23, np.float32)
    assert sum_sizes(-values) == 2000 * (1 + 2**-23)
    assert sum_products(values, values) == pytest.approx(2000 * (1 + 2**-23) ** 2, rel=1e-12)
