"""One rounding from float64 to 16 bits: the nearest value by exact fractions, ties to even."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tensors.reference import IMPLEMENTATIONS, operand, plain_term, subtract

from pipeline.tensors.dtypes import BF16, F16, F64, DType

LAST = {BF16: 0x7F7E, F16: 0x7BFE}  # the next bits are the largest number's
ONE = {BF16: 0x3F80, F16: 0x3C00}


def exact_value(bits: int, dtype: DType) -> Fraction:
    """The number that the bits of a 16-bit format mean, as a fraction."""
    digits = {BF16: 7, F16: 10}[dtype]
    bias = {BF16: 127, F16: 15}[dtype]
    exponent = (bits & 0x7FFF) >> digits
    fraction = (bits & ((1 << digits) - 1)) + (bool(exponent) << digits)
    return (-1) ** (bits >> 15) * fraction * Fraction(2) ** (max(exponent, 1) - bias - digits)


@pytest.mark.parametrize("make", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
@settings(max_examples=150, deadline=None)
@given(place=st.floats(0, 1), nudge=st.integers(-2, 2), negative=st.booleans())
@example(place=0.0, nudge=1, negative=False)
@example(place=1.0, nudge=-1, negative=True)
def test_the_nearest_value_is_found_even_beside_a_midpoint(make, dtype, place, nudge, negative):
    bits = round(place * LAST[dtype])
    low, high = exact_value(bits, dtype), exact_value(bits + 1, dtype)
    number = np.float64(float((low + high) / 2))  # exact
    for _ in range(abs(nudge)):
        number = np.nextafter(number, np.inf * np.sign(nudge))
    exact = Fraction(float(number))
    even = bits + bits % 2
    wanted = min((bits, bits + 1), key=lambda b: (abs(exact_value(b, dtype) - exact), b != even))
    check(make, dtype, -number if negative else number, wanted + 0x8000 * negative)


@pytest.mark.parametrize("make", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_what_lies_between_two_floats_of_32_bits_is_not_rounded_twice(make, dtype):
    """Through float32, 1 + half a step + a little would become a tie, and 1."""
    step = float(exact_value(ONE[dtype] + 1, dtype) - 1)
    check(make, dtype, 1 + step / 2 + 2**-40, ONE[dtype] + 1)
    check(make, dtype, 1 + step / 2, ONE[dtype])
    check(make, dtype, 1 + 3 * step / 2 - 2**-40, ONE[dtype] + 1)
    check(make, dtype, 1 + 3 * step / 2, ONE[dtype] + 2)


@pytest.mark.parametrize("make", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [BF16, F16], ids=str)
def test_numbers_beyond_the_range_become_infinite_or_zero_with_their_sign(make, dtype):
    infinity = LAST[dtype] + 2
    largest = float(exact_value(infinity - 1, dtype))
    half_step = (largest - float(exact_value(infinity - 2, dtype))) / 2
    for sign in (1, -1):
        mark = 0x8000 * (sign < 0)
        for number in (1e300, largest + half_step):
            check(make, dtype, sign * number, infinity + mark)
        check(make, dtype, sign * np.nextafter(largest + half_step, 0), infinity - 1 + mark)
        check(make, dtype, sign * 1e-300, mark)


def check(make, dtype, number, wanted):
    """Both formulas must round `number` to the bits `wanted`."""
    given = operand(np.array([number]).view(np.uint64), F64)
    zero = operand([0], F64)
    _, stored, _ = subtract(make(), given, zero, dtype)
    result = operand([0], dtype)
    make().add(given, [plain_term(zero, 1.0, F64)], result)
    assert (stored.bits[0], result.bits[0]) == (wanted, wanted)
