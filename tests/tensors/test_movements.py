"""Sums that fold into the cosine of a delta and a movement, held against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.tensors.arithmetic import CpuArithmetic, Operand, Term
from pipeline.tensors.dtypes import BF16, F16, F32, F64, DType
from pipeline.tensors.movements import correlate_into, fold_cosine

NUMPY = {F16: "<f2", F32: "<f4", F64: "<f8"}
COUNT = (1 << 15) + 77  # more than a piece, and no whole row of lanes


def operand(values: np.ndarray, dtype: DType) -> Operand:
    if dtype == BF16:
        bits = (values.astype("<f4").view("<u4") >> 16).astype("<u2")
        return Operand(bits.view(np.uint8), BF16)
    return Operand(values.astype(NUMPY[dtype]).view(np.uint8), dtype)


def wide(source: Operand) -> np.ndarray:
    if source.dtype == BF16:
        return (source.bits.astype("<u4") << 16).view("<f4").astype("f8")
    return source.data.view(NUMPY[source.dtype]).astype("f8")


@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64])
def test_the_delta_is_exact_with_its_remainders(dtype: DType) -> None:
    rng = np.random.default_rng(1)
    old, post, new = (operand(rng.normal(size=COUNT), dtype) for _ in range(3))
    stored = Operand(np.empty_like(post.data), dtype)
    lost = CpuArithmetic().subtract(post, old, stored).lost
    assert len(lost.rest_at) > 100 or dtype in (F32, F64)
    width = F64 if dtype == F64 else F32
    row = np.zeros(3)
    correlate_into(row, new, old, Term(stored, 7.0, lost.rest_at, lost.rest, width))
    exact = "f8" if dtype == F64 else "f4"
    delta = (wide(post).astype(exact) - wide(old).astype(exact)).astype("f8")
    moved = wide(new) - wide(old)
    assert row == pytest.approx([delta @ moved, delta @ delta, moved @ moved], rel=1e-7)


def test_what_any_of_the_three_lacks_is_left_out() -> None:
    values = np.arange(1.0, 9.0)
    nothing = np.empty(0, np.uint32)
    row = np.zeros(3)
    new, old = operand(values * 2, F32), operand(values[:4], F32)
    correlate_into(row, new, old, Term(operand(values, F32), 1.0, nothing, np.empty(0, "<i4"), F32))
    assert row.tolist() == [30, 30, 30]


@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_what_float32_would_lose_of_squares_counts(scale: float) -> None:
    rng = np.random.default_rng(2)
    new, old, delta = (operand(rng.normal(size=100) * scale, F32) for _ in range(3))
    row = np.zeros(3)
    nothing = np.empty(0, np.uint32)
    correlate_into(row, new, old, Term(delta, 1.0, nothing, np.empty(0, "<i4"), F32))
    moved, added = wide(new) - wide(old), wide(delta)
    assert row == pytest.approx([added @ moved, added @ added, moved @ moved], rel=1e-12, abs=0)


def test_chunks_fold_into_the_cosine_of_the_whole() -> None:
    assert fold_cosine(np.array([[1.0, 2, 3], [3, 6, 5]])) == pytest.approx(4 / 8)


@pytest.mark.parametrize("row", [[0, 0, 1], [0, 1, 0], [1, np.inf, 1], [np.nan, 1, 1]])
def test_what_did_not_move_or_is_not_finite_has_no_cosine(row: list[float]) -> None:
    assert fold_cosine(np.array([row])) is None
