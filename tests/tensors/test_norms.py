"""Norms of chunks and what they fold into: right to float32's precision, and always the same bits."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from tensors.reference import FLOATS, operand, random_bits, specials, values, weights

from pipeline.tensors.arithmetic import CHUNK_ELEMENTS, CpuArithmetic, Operand
from pipeline.tensors.dtypes import BF16, F16, F32, F64, DType
from pipeline.tensors.norms import Norms, fold, measure_into

PAIRS = list(product(FLOATS, FLOATS))
TORCH = {BF16: torch.bfloat16, F16: torch.float16, F32: torch.float32, F64: torch.float64}


def measure(post: Operand, base: Operand) -> np.ndarray:
    row = np.full(3, 7.0)
    measure_into(row, post, base)
    return row


def wide(source: Operand) -> torch.Tensor:
    data = torch.tensor(source.data)
    return data.view(TORCH[source.dtype]).double() if len(data) else data.double()


def expected(post: Operand, base: Operand) -> list[float]:
    """By torch in float64, over whole chunks."""
    delta, before = wide(post), wide(base)
    delta[: len(before)] -= before
    return [float((delta**2).sum()), float((before**2).sum()), float(delta.abs().max())]


def pair(post: DType, base: DType, count: int, seed: int = 1) -> tuple[Operand, Operand]:
    """Operands like those of a fine-tune."""
    before = weights(base, count, seed)
    after = weights(post, count, seed + 1, close_to=values(before, base, np.float64))
    return operand(after, post), operand(before, base)


@pytest.mark.parametrize(("post", "base"), PAIRS, ids=str)
@pytest.mark.parametrize("count", [1, 63, 64, 65, 511, 513, 40_000])
def test_norms_are_those_of_float64(post: DType, base: DType, count: int) -> None:
    after, before = pair(post, base, count)
    np.testing.assert_allclose(measure(after, before), expected(after, before), rtol=1e-5)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_whole_chunk_has_the_norms_of_float64(dtype: DType) -> None:
    after, before = pair(dtype, dtype, CHUNK_ELEMENTS)
    np.testing.assert_allclose(measure(after, before), expected(after, before), rtol=1e-5)


@pytest.mark.parametrize(("post", "base"), PAIRS, ids=str)
def test_what_the_base_lacks_counts_as_zero(post: DType, base: DType) -> None:
    after, before = pair(post, base, 3000)
    for have in (0, 1, 64, 1000, 2999):
        short = operand(before.bits[:have], base)
        np.testing.assert_allclose(measure(after, short), expected(after, short), rtol=1e-5)


def lane_by_lane(post: Operand, base: Operand) -> list[float]:
    """The sums as the manifest has them: 512 side by side in float32, each in order."""
    rows = -(-len(post.bits) // 512)
    sides = np.zeros((2, rows * 512), np.float32)
    for side, source in zip(sides, (post, base), strict=True):
        side[: len(source.bits)] = (source.bits.astype(np.uint32) << 16).view(np.float32)
    delta = sides[0] - sides[1]
    found = []
    for numbers in (delta, sides[1]):
        lanes = np.zeros(512, np.float32)
        for row in numbers.reshape(rows, 512):
            lanes += row * row
        found.append(sum(lanes.tolist()))
    return [*found, float(np.abs(delta).max())]


@pytest.mark.parametrize("count", [1, 15, 16, 17, 511, 512, 513, 4095, 4097, 40_000])
def test_norms_of_bfloat16_have_the_same_bits_everywhere_and_however_they_were_made(count: int) -> None:
    after, before = pair(BF16, BF16, count)
    expected = lane_by_lane(after, before)
    assert measure(after, before).tolist() == expected
    room = Operand(np.empty_like(after.data), BF16)
    row = np.full(3, 7.0)
    measure_into(row, after, before, CpuArithmetic().subtract(after, before, room).squares)
    assert row.tolist() == expected


@pytest.mark.parametrize("have", [0, 100, 1999])
def test_a_subtraction_of_a_shorter_base_leaves_the_norms_to_be_made(have: int) -> None:
    after, before = pair(BF16, BF16, 2000)
    short = operand(before.bits[:have], BF16)
    room = Operand(np.empty_like(after.data), BF16)
    assert CpuArithmetic().subtract(after, short, room).squares is None


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_nothing_has_no_norm_and_what_is_the_same_none_but_its_base(dtype: DType) -> None:
    nothing = operand([], dtype)
    assert measure(nothing, nothing).tolist() == [0, 0, 0]
    after, _ = pair(dtype, dtype, 1000)
    same = measure(after, after)
    assert (same[0], same[2]) == (0, 0) and same[1] > 0


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", ["post", "base"])
def test_numbers_that_are_none_leave_no_norm(dtype: DType, odd: float, side: str) -> None:
    after, before = pair(dtype, dtype, 2000)
    bad = torch.tensor([odd], dtype=TORCH[dtype]).view(torch.uint8).numpy()
    which = after if side == "post" else before
    which.data[700 * dtype.itemsize : 701 * dtype.itemsize] = bad
    found = fold(measure(after, before)[np.newaxis])
    assert (found.delta_l2, found.delta_max) == (None, None)
    assert (found.base_l2 is None) == (side == "base")


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_any_bits_at_all_are_measured_or_have_no_norm(dtype: DType) -> None:
    """Zeros, subnormals and limits against each other, and noise."""
    for seed in range(20):
        bits = np.concatenate([specials(dtype), random_bits(dtype, 1000, seed)])
        after = operand(np.random.default_rng(seed).permutation(bits), dtype)
        finite = operand(bits[np.isfinite(values(bits, dtype, np.float64))], dtype)
        fold(measure(after, operand(bits, dtype))[np.newaxis])
        row, wanted = measure(finite, operand([], dtype)), expected(finite, operand([], dtype))
        found = fold(row[np.newaxis])
        if math.isfinite(wanted[0]):
            assert found.delta_l2 == pytest.approx(math.sqrt(wanted[0]), rel=1e-5)
        assert found.delta_max == wanted[2]


@pytest.mark.parametrize("dtype", [BF16, F32, F64], ids=str)
@pytest.mark.parametrize("size", [1e-38, 1e-30, 1e-20, 1e-12, 1e10, 1e18, 1e30])
def test_very_small_and_very_large_numbers_are_measured(dtype: DType, size: float) -> None:
    """Where squares in float32 would be nothing, or infinite."""
    rng = np.random.default_rng(1)
    tensors = [torch.tensor(rng.normal(0, size, 5000)).to(TORCH[dtype]) for _ in range(2)]
    after, before = (Operand(t.view(torch.uint8).numpy().copy(), dtype) for t in tensors)
    np.testing.assert_allclose(measure(after, before), expected(after, before), rtol=1e-5)


def test_sums_that_float64_can_not_hold_are_none() -> None:
    large = operand(np.full(1000, 1e154).view(np.uint64), F64)  # each square is finite
    assert fold(measure(large, operand([], F64))[np.newaxis]) == Norms(None, 0.0, 1e154)
    assert fold(np.array([[1e308, 1.0, 1.0]] * 3)) == Norms(None, math.sqrt(3), 1.0)


@pytest.mark.parametrize(("post", "base"), [(BF16, BF16), (F32, BF16), (F64, F64)], ids=str)
def test_where_a_chunk_lies_in_memory_does_not_change_a_bit(post: DType, base: DType) -> None:
    after, before = pair(post, base, 10_007)
    first = measure(after, before).tobytes()
    for shift in (1, 3, 8, 31):
        moved = []
        for side in (after, before):
            room = np.zeros(len(side.data) + 64 * side.dtype.itemsize, np.uint8)
            at = shift * side.dtype.itemsize
            room[at : at + len(side.data)] = side.data
            moved.append(Operand(room[at : at + len(side.data)], side.dtype))
        assert measure(*moved).tobytes() == first


def test_the_order_in_which_chunks_are_folded_does_not_matter() -> None:
    rows = np.random.default_rng(1).lognormal(0, 20, (1000, 3))
    first = fold(rows)
    for seed in range(5):
        assert fold(np.random.default_rng(seed).permutation(rows)) == first
    assert first.delta_l2 == math.sqrt(math.fsum(rows[:, 0]))
    assert first.delta_max == rows[:, 2].max()


def test_no_chunks_fold_into_nothing() -> None:
    assert fold(np.zeros((0, 3))) == Norms(0.0, 0.0, 0.0)
