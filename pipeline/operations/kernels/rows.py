"""Rows of a sum in which not all that is added counts as ever: post's own, and the new base's."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.engine.plan import Slice
from pipeline.tensors.arithmetic import Arithmetic, Operand, Term


@dataclass(frozen=True, slots=True)
class RowRule:
    """What counts in the rows start..stop.

    keeps_base: whether the new base's rows do. scales: by which each addend's rows are multiplied, None
    if they do not count.
    """

    start: int
    stop: int
    keeps_base: bool
    scales: tuple[float | None, ...]


def ruled(rules: Sequence[RowRule], width: int, part: Slice) -> Iterator[tuple[RowRule, int, int]]:
    """The rules that hold in a slice, each with its first element there, and the one behind its last.

    width: elements of a row.
    """
    end = part.start + part.count
    first = bisect_right(rules, part.start // width, key=lambda rule: rule.stop)
    for rule in rules[first:]:
        if rule.start * width >= end:
            break
        yield (
            rule,
            max(rule.start * width - part.start, 0),
            min(rule.stop * width - part.start, part.count),
        )


def pieces(
    rules: Sequence[RowRule], width: int, part: Slice
) -> Iterator[tuple[int, int, RowRule | None]]:
    """A slice cut where rules begin and end: first element, the one behind the last, rule if any."""
    at = 0
    for rule, low, high in ruled(rules, width, part):
        if at < low:
            yield at, low, None
        yield low, high, rule
        at = high
    if at < part.count:
        yield at, part.count, None


def ruled_elements(rules: Sequence[RowRule], shape: Sequence[int]) -> int:
    """How many elements of a tensor of this shape stand in rows that have a rule."""
    rows = sum(max(0, min(rule.stop, shape[0]) - rule.start) for rule in rules)
    return rows * math.prod(shape[1:])


def settle_rows(
    arithmetic: Arithmetic,
    rules: Sequence[RowRule],
    width: int,
    part: Slice,
    base: Operand,
    terms: Sequence[tuple[int, Term]],
    result: Operand,
) -> int:
    """Do the sum of a chunk again where `rules` say so.

    width: elements of a row. terms: with the numbers of their addends. Returns by how many the results
    that are not finite become more, or fewer if it is negative.
    """
    more = 0
    for rule, low, high in ruled(rules, width, part):
        counted = [
            cut(term, low, high, scale)
            for number, term in terms
            if (scale := rule.scales[number]) is not None
        ]
        out = piece(result, low, high)
        more -= arithmetic.add(out, [], Operand(np.empty_like(out.data), out.dtype))
        more += arithmetic.add(piece(base, low, high if rule.keeps_base else low), counted, out)
    return more


def piece(operand: Operand, low: int, high: int) -> Operand:
    """Elements low..high of an operand."""
    size = operand.dtype.itemsize
    return Operand(operand.data[low * size : high * size], operand.dtype)


def cut(term: Term, low: int, high: int, scale: float) -> Term:
    """Elements low..high of a term, by another scale."""
    first, last = np.searchsorted(term.rest_at, (low, high))
    at = term.rest_at[first:last] - np.uint32(low)
    return Term(piece(term.stored, low, high), scale, at, term.rest[first:last], term.width)
