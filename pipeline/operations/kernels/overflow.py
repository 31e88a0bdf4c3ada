"""Which values of a sum are not finite although all that went into it is: its format is too small."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.tensors.arithmetic import Operand, Term
from pipeline.tensors.dtypes import BF16, F16, F64, DType

Places = NDArray[np.intp]


def count_overflows(base: Operand, terms: Sequence[Term], result: Operand) -> int:
    """Elements of `result` that are NaN or infinite where those of base and of all terms are finite.

    Values that a side lacks count as zero. Takes time and memory only where there are such elements.
    """
    at = np.flatnonzero(~np.isfinite(_values(result.bits, result.dtype)))
    at = at[_finite_at(base.bits, base.dtype, at)]
    for term in terms:
        at = at[_is_finite(term, at)]
    return len(at)


def _values(bits: NDArray[Any], dtype: DType) -> NDArray[Any]:
    """Elements as numpy's floats, exactly."""
    if dtype == BF16:
        return (bits.astype(np.uint32) << 16).view(np.float32)
    return bits.view("<f2" if dtype == F16 else "<f8" if dtype == F64 else "<f4")


def _finite_at(bits: NDArray[Any], dtype: DType, at: Places) -> NDArray[np.bool_]:
    """Whether the elements at those places are finite; those behind the end are."""
    found = np.ones(len(at), bool)
    within = at < len(bits)
    found[within] = np.isfinite(_values(bits[at[within]], dtype))
    return found


def _is_finite(term: Term, at: Places) -> NDArray[np.bool_]:
    """The same for a term, with what rounding lost put back: what is stored may be infinite alone."""
    bits, width = term.stored.bits, term.width
    within = at < len(bits)
    places = at[within]
    exact = _values(bits[places], term.stored.dtype).astype("<f8" if width == F64 else "<f4")
    if len(term.rest_at):
        rest_of = np.searchsorted(term.rest_at, places).clip(max=len(term.rest_at) - 1)
        has_rest = term.rest_at[rest_of] == places
        exact.view(f"<i{width.itemsize}")[has_rest] += term.rest[rest_of[has_rest]]
    found = np.ones(len(at), bool)
    found[within] = np.isfinite(exact)
    return found
