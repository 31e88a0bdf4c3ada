"""post - base and base + scale * delta: every operation in float32 or float64, rounded once."""

from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest
from tensors.reference import (
    FLOATS,
    IMPLEMENTATIONS,
    difference,
    is_finite,
    is_nan,
    nearest,
    operand,
    pairs,
    plain_term,
    random_bits,
    specials,
    subtract,
    term,
    values,
    weights,
    wide,
)

from pipeline.tensors.arithmetic import Term
from pipeline.tensors.dtypes import BF16, F16, F32, F64

by_both = pytest.mark.parametrize("make", IMPLEMENTATIONS.values(), ids=IMPLEMENTATIONS)
for_all_pairs = pytest.mark.parametrize(
    ("post", "base"), [pytest.param(p, b, id=f"{p}-{b}") for p, b in product(FLOATS, FLOATS)]
)

# -- subtract -----------------------------------------------------------------------------------


@by_both
@for_all_pairs
def test_a_stored_delta_is_the_wide_difference_rounded_once(make, post, base):
    ours, theirs = pairs(post, base)
    exact = difference(ours, post, theirs, base)
    for stored in FLOATS:
        _, found, _ = subtract(make(), operand(ours, post), operand(theirs, base), stored)
        np.testing.assert_array_equal(found.bits, nearest(exact, stored), err_msg=str(stored))


@by_both
@for_all_pairs
def test_the_remainders_complete_a_stored_delta_to_the_exact_difference(make, post, base):
    ours, theirs = pairs(post, base)
    exact = difference(ours, post, theirs, base)
    width = wide((post, base))
    for stored in FLOATS:
        _, found, lost = subtract(make(), operand(ours, post), operand(theirs, base), stored)
        with np.errstate(all="ignore"):
            rebuilt = values(found.bits, stored, width)
        np.add.at(rebuilt.view(lost.rest.dtype), lost.rest_at, lost.rest)
        np.testing.assert_array_equal(rebuilt.view(exact.dtype), exact, err_msg=str(stored))
        assert np.all(lost.rest != 0)
        assert np.all(np.diff(lost.rest_at.astype(np.int64)) > 0)
        assert np.all(np.diff(lost.lost_at.astype(np.int64)) > 0)


@by_both
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_elements_count_as_changed_where_their_bits_differ(make, dtype):
    old = weights(dtype, 500, 1)
    new = old.copy()
    new[100:200] ^= 1
    new[300] = 0
    old[300] = 1 << (8 * dtype.itemsize - 1)  # -0.0
    changed, _, _ = subtract(make(), operand(new, dtype), operand(old, dtype), dtype)
    assert changed == 101


@by_both
@for_all_pairs
def test_elements_that_the_base_lacks_count_as_zero(make, post, base):
    ours, theirs = pairs(post, base)
    theirs = theirs[: len(ours) // 3]
    for stored in (BF16, F32):
        _, found, _ = subtract(make(), operand(ours, post), operand(theirs, base), stored)
        exact = difference(ours, post, theirs, base)
        np.testing.assert_array_equal(found.bits, nearest(exact, stored))


@by_both
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_whatever_its_payload_a_nan_is_stored_as_the_one_quiet_nan(make, dtype):
    every = specials(dtype)
    nans = every[is_nan(every, dtype)]
    one = np.full_like(nans, nearest(np.array([1.0]), dtype)[0])
    for ours, theirs in ((nans, one), (one, nans), (nans, nans)):
        _, found, lost = subtract(make(), operand(ours, dtype), operand(theirs, dtype), dtype)
        np.testing.assert_array_equal(found.bits, nearest(np.full(len(nans), np.nan), dtype))
        assert not len(lost.rest_at)


@by_both
@pytest.mark.parametrize("stored", FLOATS, ids=str)
def test_a_tensor_may_be_subtracted_in_pieces(make, stored):
    ours, theirs = pairs(BF16, BF16)
    changed, whole, lost = subtract(make(), operand(ours, BF16), operand(theirs, BF16), stored)
    edges = [0, 1, 257, 1000, 1001, len(ours)]
    arithmetic, counted = make(), 0
    stored_parts, rest_at, lost_at = [], [], []
    for start, stop in pairwise(edges):
        left, right = operand(ours[start:stop], BF16), operand(theirs[start:stop], BF16)
        count, part, part_lost = subtract(arithmetic, left, right, stored)
        counted += count
        stored_parts.append(part.bits)
        rest_at.append(part_lost.rest_at + start)
        lost_at.append(part_lost.lost_at + start)
    assert counted == changed
    np.testing.assert_array_equal(np.concatenate(stored_parts), whole.bits)
    np.testing.assert_array_equal(np.concatenate(rest_at), lost.rest_at)
    np.testing.assert_array_equal(np.concatenate(lost_at), lost.lost_at)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 63, 64, 65, 511, 512, 4095, 4096, 4097, 8199])
@pytest.mark.parametrize("draw", [random_bits, weights])
@pytest.mark.parametrize("stored", [BF16, F32], ids=str)
def test_bfloat16_is_subtracted_alike_by_both_whatever_the_number_of_elements(count, draw, stored):
    """One of them has vectors, spans and an end."""
    ours, theirs = (operand(draw(BF16, count, seed), BF16) for seed in (count, count + 1))
    first, second = (subtract(make(), ours, theirs, stored) for make in IMPLEMENTATIONS.values())
    assert first[0] == second[0]
    np.testing.assert_array_equal(first[1].bits, second[1].bits)
    for name in ("rest_at", "rest", "lost_at", "lost"):
        np.testing.assert_array_equal(getattr(first[2], name), getattr(second[2], name))


@pytest.mark.parametrize("count", [1, 15, 16, 17, 511, 513, 4097])
@pytest.mark.parametrize("stored", [BF16, F32], ids=str)
def test_one_number_that_is_none_leaves_those_beside_it_alone(count, stored):
    theirs = weights(BF16, count, 1)
    ours = weights(BF16, count, 2, close_to=values(theirs, BF16, np.float64))
    for place in {0, count // 2, count - 1}:
        odd = ours.copy()
        odd[place] = 0x7F80
        for make in IMPLEMENTATIONS.values():
            _, without, _ = subtract(make(), operand(ours, BF16), operand(theirs, BF16), stored)
            _, found, _ = subtract(make(), operand(odd, BF16), operand(theirs, BF16), stored)
            assert found.bits[place] == nearest(np.array([np.inf]), stored)[0]
            np.testing.assert_array_equal(np.delete(found.bits, place), np.delete(without.bits, place))


@by_both
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nothing_minus_nothing_is_nothing(make, dtype):
    none = operand([], dtype)
    changed, found, lost = subtract(make(), none, none, dtype)
    assert (changed, len(found.bits), len(lost.rest_at), len(lost.lost_at)) == (0, 0, 0, 0)
    assert make().add(none, [plain_term(none, 1.0)], operand([], dtype)) == 0


# -- add ----------------------------------------------------------------------------------------


def total(base, base_type, terms, count):
    """base + the scaled terms, every operation in the wide format; what is missing adds nothing."""
    kinds = tuple(width for _, _, _, width in terms)
    width = wide((base_type, *kinds))
    result = np.zeros(count, width)
    result[: len(base)] = values(base, base_type, width)
    for bits, dtype, scale, own in terms:
        delta = values(bits, dtype, np.float64 if own is F64 else np.float32).astype(width)
        result[: len(delta)] += width(scale) * delta
    return result


def check_sum(make, base, base_type, terms, result_type, count=None):
    """One sum against the reference, NaNs being equal to each other."""
    count = len(base) if count is None else count
    result = operand(np.full(count, 0xA5), result_type)
    parts = [plain_term(operand(bits, kind), scale, width) for bits, kind, scale, width in terms]
    nonfinite = make().add(operand(base, base_type), parts, result)
    with np.errstate(all="ignore"):
        wanted = nearest(total(base, base_type, terms, count), result_type)
    found = result.bits.copy()
    found[is_nan(found, result_type) & is_nan(wanted, result_type)] = wanted[:1] * 0
    wanted[is_nan(wanted, result_type)] = 0
    np.testing.assert_array_equal(found, wanted)
    assert nonfinite == np.count_nonzero(~is_finite(result.bits, result_type))


@by_both
@pytest.mark.parametrize("width", [F32, F64], ids=str)
@for_all_pairs
def test_a_sum_is_computed_wide_and_rounded_once(make, post, base, width):
    stored, theirs = pairs(post, base)
    for result in FLOATS:
        check_sum(make, theirs, base, [(stored, post, 1.0, width)], result)


@by_both
@pytest.mark.parametrize("scale", [0.0, -0.0, 0.5, -1.0, 0.7, 1 / 3, 1e-30, 1e30, 1e300, 1e-300])
def test_a_scale_is_rounded_to_the_arithmetics_format_and_multiplied_there(make, scale):
    stored, base = pairs(BF16, BF16)
    for kind, width, result in product((BF16, F32), (F32, F64), (BF16, F32)):
        bits = nearest(values(stored, BF16, np.float32), kind)
        check_sum(make, base, BF16, [(bits, kind, scale, width)], result)


@by_both
def test_several_terms_are_summed_wide_in_their_order_and_rounded_once(make):
    stored, base = pairs(BF16, BF16)
    terms = [
        (stored, BF16, 0.3, F32),
        (weights(F16, len(base), 5), F16, -0.7, F32),
        (weights(F32, len(base), 6), F32, 1e-3, F32),
    ]
    check_sum(make, base, BF16, terms, BF16)
    check_sum(make, base, BF16, [*terms, (weights(F64, len(base), 7), F64, 2.0, F64)], BF16)


@by_both
@pytest.mark.parametrize("base", FLOATS, ids=str)
def test_a_shorter_base_counts_as_zero_and_a_shorter_term_leaves_the_sum_alone(make, base):
    theirs = weights(base, 300, 1)
    for longer, shorter in ((400, 200), (300, 100)):
        terms = [(weights(BF16, longer, 2), BF16, 0.5, F32), (weights(F32, shorter, 3), F32, 1.0, F32)]
        check_sum(make, theirs, base, terms, BF16, count=longer)


@by_both
def test_minus_zero_stays_minus_zero_where_no_term_reaches(make):
    minus_zero = np.full(4, 0x8000)
    result = operand(np.zeros(4), BF16)
    make().add(operand(minus_zero, BF16), [plain_term(operand([1, 1], BF16), 0.0)], result)
    assert result.bits.tolist() == [0, 0, 0x8000, 0x8000]


@by_both
def test_remainders_take_part_in_the_sum(make):
    ours, theirs = pairs(F32, BF16)
    other = weights(BF16, len(ours), 9)
    for stored, scale in product(FLOATS, (1.0, 0.25)):
        _, kept, lost = subtract(make(), operand(ours, F32), operand(theirs, BF16), stored)
        result = operand(np.zeros(len(ours)), F32)
        make().add(operand(other, BF16), [term(kept, lost, np.float32, scale)], result)
        with np.errstate(all="ignore"):
            delta = np.float32(scale) * difference(ours, F32, theirs, BF16)
            wanted = values(other, BF16, np.float32) + delta
        np.testing.assert_array_equal(result.bits.view(np.float32), wanted)


@pytest.mark.parametrize("count", [1, 15, 16, 17, 4096, 8199])
@pytest.mark.parametrize("draw", [random_bits, weights])
@pytest.mark.parametrize("scale", [1.0, 0.7, 1e30])
@pytest.mark.parametrize("kind", [BF16, F32], ids=str)
def test_bfloat16_is_added_alike_by_both_whatever_the_number_of_elements(count, draw, scale, kind):
    """With remainders, where there are any, and with what is not finite, which is counted."""
    base, stored = operand(draw(BF16, count, count), BF16), operand(draw(kind, count, count + 1), kind)
    at = np.arange(0, count if kind == BF16 else 0, 3, dtype=np.uint32)
    rest = np.random.default_rng(1).integers(-32768, 32768, len(at), np.int32)
    found = []
    for make in IMPLEMENTATIONS.values():
        out = operand(np.zeros(count), BF16)
        strange = make().add(base, [Term(stored, scale, at, rest, F32)], out)
        assert strange == np.count_nonzero(~is_finite(out.bits, BF16))
        found.append(out.bits)
    np.testing.assert_array_equal(*found)


def test_what_only_a_remainder_makes_infinite_is_counted():
    largest = operand([0x7F7F], BF16)
    out = operand([0], BF16)
    rest = np.array([0x10000], np.int32)  # half a unit of the last place, so the sum rounds up
    term = Term(operand([0x7AFF], BF16), 1.0, np.zeros(1, np.uint32), rest, F32)
    for make in IMPLEMENTATIONS.values():
        assert make().add(largest, [plain_term(term.stored, 1.0)], out) == 0
        assert make().add(largest, [term], out) == 1, hex(out.bits[0])


@by_both
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_results_that_are_not_finite_are_counted(make, dtype):
    base = specials(dtype)
    result = operand(base * 0, dtype)
    zero = operand(base * 0, dtype)
    count = make().add(operand(base, dtype), [plain_term(zero, 1.0, F64)], result)
    assert count == np.count_nonzero(~is_finite(base, dtype)) > 0


@by_both
@pytest.mark.parametrize("result", FLOATS, ids=str)
def test_every_nan_of_a_result_is_the_one_quiet_nan(make, result):
    """Which payload a sum of NaNs has differs between processors and compilers; files must not."""
    stored, base = pairs(BF16, BF16)
    out = operand(np.zeros(len(base)), result)
    make().add(operand(base, BF16), [plain_term(operand(stored, BF16), 1.0)], out)
    nans = out.bits[is_nan(out.bits, result)]
    assert len(nans) > 100
    np.testing.assert_array_equal(nans, nearest(np.full(len(nans), np.nan), result))
