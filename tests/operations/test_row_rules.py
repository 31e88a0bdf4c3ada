"""Rows in which not every operand counts: the rest of a chunk stays as it was."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.engine.plan import Slice
from pipeline.operations.kernels.rows import RowRule, settle_rows
from pipeline.tensors.arithmetic import Arithmetic, CpuArithmetic, Operand, Term
from pipeline.tensors.dtypes import F32
from pipeline.tensors.torch_arithmetic import TorchArithmetic

WIDTH, START, COUNT = 4, 6, 22  # the chunk begins and ends within a row
RULES = (
    RowRule(0, 1, False, (1.0, None)),  # before the chunk
    RowRule(1, 3, False, (1.0, None)),  # its first row lies half before it
    RowRule(4, 5, True, (None, None)),
    RowRule(6, 9, False, (None, 0.25)),  # its last row lies half behind it
    RowRule(9, 10, False, (None, None)),
)


@pytest.fixture(params=[CpuArithmetic, lambda: TorchArithmetic("cpu")], ids=["numpy", "torch"])
def arithmetic(request: pytest.FixtureRequest) -> Arithmetic:
    made: Arithmetic = request.param()
    return made


def operand(values: np.ndarray) -> Operand:
    return Operand(values.view(np.uint8), F32)


def term(values: np.ndarray, scale: float, *rest: tuple[int, int]) -> Term:
    """A delta whose bits at some places are so much more than what is stored."""
    at = np.array([place for place, _ in rest], np.uint32)
    return Term(operand(values), scale, at, np.array([more for _, more in rest], np.int32), F32)


def test_rows_are_summed_again_as_their_rules_say(arithmetic):
    random = np.random.default_rng(1)
    base, one, two = (random.integers(-99, 99, COUNT).astype("<f4") for _ in range(3))
    base[17] = one[3] = np.inf  # rows 5 and 2
    terms = [term(one, 0.5, (0, 1 << 23), (12, 1 << 23)), term(two, 2.0)]
    exact = one.copy()
    exact.view(np.int32)[[0, 12]] += 1 << 23
    result = np.empty(COUNT, "<f4")
    before = arithmetic.add(operand(base), terms, operand(result))
    wanted = result.copy()
    rows = (np.arange(COUNT) + START) // WIDTH
    for rule in RULES:
        mine = (rows >= rule.start) & (rows < rule.stop)
        parts = [np.zeros(COUNT, "<f4"), *([base] if rule.keeps_base else [])]
        parts += [
            s * np.nan_to_num(d, posinf=np.inf)
            for s, d in zip(rule.scales, (exact, two), strict=True)
            if s
        ]
        wanted[mine] = sum(parts)[mine]
    part = Slice(0, 0, 0, START, COUNT, (), 0, 0)
    numbered = list(enumerate(terms))
    more = settle_rows(arithmetic, RULES, WIDTH, part, operand(base), numbered, operand(result))
    assert result.tolist() == wanted.tolist()
    assert before + more == np.count_nonzero(~np.isfinite(wanted))


def test_operands_that_end_before_a_rows_end_count_as_far_as_they_go(arithmetic):
    base, one = np.ones(5, "<f4"), np.full(10, 3, "<f4")
    result = np.zeros(COUNT, "<f4")
    part = Slice(0, 0, 0, 0, COUNT, (), 0, 0)
    rules = (RowRule(0, 4, True, (0.5,)),)
    settle_rows(arithmetic, rules, WIDTH, part, operand(base), [(0, term(one, 1.0))], operand(result))
    assert result[:16].tolist() == [2.5] * 5 + [1.5] * 5 + [0.0] * 6
