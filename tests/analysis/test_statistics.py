"""Figures of one chunk, against the plainest numpy."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.analysis.statistics import HIGHEST, LOWEST, count_agreement, measure, sum_products


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sizes_are_what_numpy_says(dtype):
    values = (np.random.default_rng(1).normal(size=100_000) * 1e-3).astype(dtype)
    values[::10] = 0
    found = measure(values.copy())
    assert found.squares == pytest.approx(float(np.square(values.astype(np.float64)).sum()), rel=1e-12)
    assert (found.largest, found.zeros, found.nonfinite) == (np.abs(values).max(), 10_000, 0)
    exponents = np.floor(np.log2(np.abs(values[values != 0]))).astype(int)
    expected = np.bincount(exponents - LOWEST, minlength=HIGHEST - LOWEST + 1)
    assert found.bins.tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_not_finite_is_counted_and_taken_out(dtype):
    values = np.array([1, np.nan, -2, np.inf, -np.inf, 0], dtype)
    found = measure(values)
    assert (found.nonfinite, found.squares, found.largest) == (3, 5.0, 2.0)
    assert values.tolist() == [1, 0, -2, 0, 0, 0]
    assert found.bins.sum() == 2


def test_the_smallest_and_the_largest_are_counted_with_the_outermost_bins():
    found = measure(np.array([1e-45, 1e-38, 3e38, -0.0], np.float32))
    assert (found.bins[0], found.bins[-1], found.bins.sum(), found.zeros) == (2, 1, 3, 1)


def test_products_are_summed_in_float64():
    ones = np.full(1 << 18, 1 + 2**-20, np.float32)
    assert sum_products(ones, ones) == pytest.approx((1 << 18) * (1 + 2**-20) ** 2, rel=1e-15)


def test_signs_agree_where_neither_is_zero():
    left = np.array([1, 1, -1, 0, 2, -0.0], np.float32)
    right = np.array([3, -1, -5, 4, 0, -1], np.float32)
    assert count_agreement(left, right) == (3, 2)
