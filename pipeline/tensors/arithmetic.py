"""The two formulas of the method on one chunk of a tensor, exact where exactness is possible.

    subtract:  d = W(post) - W(base)                       stored = round(d), and what rounding lost
    add:       result = round(W(base) + sum of W(scale_i) * d_i)

W is float32, or float64 where any operand is float64; every operation is done in W and the result is
rounded once, to nearest even. What a stored chunk lost is kept beside it:

- a *remainder* where bits(d) != bits(W(stored)): their difference as a signed integer, so that d comes
  back exactly, for any base;
- an *exception* where round(W(base) + d) is not post: post's own bits, for the base it was made on.

By Sterbenz's lemma there is no remainder wherever post and base are within a factor of two, which is
nearly everywhere in a fine-tuned model. Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.tensors import kernels
from pipeline.tensors.dtypes import (
    BF16,
    F16,
    F32,
    F64,
    NUMPY_FLOATS,
    Bits,
    Bytes,
    DType,
    compute_dtype,
)

CHUNK_ELEMENTS = 1 << 19  # the unit of work, of digests and of the delta format; 1 MiB of bfloat16

_EXPONENTS = {BF16: 0x7F80, F16: 0x7C00, F32: 0x7F800000, F64: 0x7FF0000000000000}


@dataclass(frozen=True, slots=True)
class Corrections:
    """What a stored chunk lost. Positions count elements from the chunk's start (uint32, ascending).

    rest: signed integers as wide as W. lost: bits of post's format.
    """

    rest_at: NDArray[np.uint32]
    rest: NDArray[Any]
    lost_at: NDArray[np.uint32]
    lost: Bits


@dataclass(frozen=True, slots=True)
class Subtracted:
    """What a subtraction found. changed: elements that differ. lost: what rounding lost.

    squares: the sums of `kernels.norms_bf16`, where they were made on the way.
    """

    changed: int
    lost: Corrections
    squares: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True)
class Operand:
    """The raw bytes of a run of elements of one format."""

    data: Bytes
    dtype: DType

    @property
    def bits(self) -> Bits:
        """The elements as unsigned integers."""
        return self.data.view(self.dtype.bits)


@dataclass(frozen=True, slots=True)
class Term:
    """One scaled delta in a sum: stored values and the remainders that make them exact."""

    stored: Operand
    scale: float
    rest_at: NDArray[np.uint32]
    rest: NDArray[Any]
    width: DType  # the W of the subtraction that made it


class Arithmetic(Protocol):
    """Both formulas on one chunk. An instance belongs to one thread: it reuses its scratch space."""

    def subtract(self, post: Operand, base: Operand, stored: Operand) -> Subtracted:
        """Fill `stored` with post - base.

        `base` may be shorter than `post`: elements that it lacks count as zero. The arrays of what is
        returned are valid until the next call.
        """

    def add(self, base: Operand, terms: Sequence[Term], result: Operand) -> int:
        """Fill `result` with base + the scaled terms; returns how many results are not finite.

        `base` and each term may be shorter than `result`: a missing base element counts as zero, a
        missing term leaves the sum as it is.
        """


def subtract_bytes(dtypes: Iterable[DType]) -> int:
    """Memory in bytes that one worker's subtraction of these formats needs at most, beside its buffers.

    That is where every element has a remainder and an exception.
    """
    floats = {dtype for dtype in dtypes if dtype.is_float}
    if floats <= {BF16}:
        return CHUNK_ELEMENTS * (_PLACES + BF16.itemsize)
    width = compute_dtype(*floats).itemsize
    post = max(dtype.itemsize for dtype in floats)
    return CHUNK_ELEMENTS * (_wide_bytes(floats) + (4 + width) + 2 * post + (8 + 4 + 1) + 5)


def sum_bytes(dtypes: Iterable[DType]) -> int:
    """The same for `add` and `combine`."""
    floats = {dtype for dtype in dtypes if dtype.is_float}
    width = compute_dtype(*floats).itemsize
    return CHUNK_ELEMENTS * (_wide_bytes(floats) + 2 * width + (8 + 4 + 1) + 5)


_PLACES = 4 + 4 + 4 + 2  # bytes an element of what `CpuArithmetic` has from the start


def _wide_bytes(floats: set[DType]) -> int:
    """Bytes an element of all places and wide arrays, those for bfloat16 on its way to float64 too."""
    width = compute_dtype(*floats)
    return _PLACES + 3 * width.itemsize + (3 * F32.itemsize if width == F64 and BF16 in floats else 0)


class CpuArithmetic:
    """`Arithmetic` with compiled loops for bfloat16, the commonest case, and numpy for the others."""

    def __init__(self) -> None:
        self._scratch: dict[tuple[int, DType], NDArray[Any]] = {}
        self._found = kernels.Lost(CHUNK_ELEMENTS)

    def subtract(self, post: Operand, base: Operand, stored: Operand) -> Subtracted:
        """See `Arithmetic.subtract`."""
        if post.dtype == base.dtype == BF16 and stored.dtype in (BF16, F32):
            return self._subtract_bf16(post, base, stored)
        with np.errstate(all="ignore"):  # overflow, NaN and infinity are data here
            return self._subtract_any(post, base, stored)

    def _subtract_bf16(self, post: Operand, base: Operand, stored: Operand) -> Subtracted:
        """The difference of bfloat16 values, in the same format or in float32, in which it is exact."""
        subtrahend = base.bits
        as_long = len(base.data) == len(post.data)
        if not as_long:
            subtrahend = np.zeros(len(post.bits), BF16.bits)
            subtrahend[: len(base.bits)] = base.bits
        found, rests, squares = self._found, 0, None
        if stored.dtype == F32:
            out = stored.data.view(NUMPY_FLOATS[F32])
            changed, losses = kernels.subtract_wide_bf16(post.bits, subtrahend, out, found)
        else:
            changed, rests, losses = kernels.subtract_bf16(post.bits, subtrahend, stored.bits, found)
            squares = found.squares if as_long else None
        lost = Corrections(
            found.rest_at[:rests], found.rest[:rests], found.lost_at[:losses], found.lost[:losses]
        )
        return Subtracted(changed, lost, squares)

    def _subtract_any(self, post: Operand, base: Operand, stored: Operand) -> Subtracted:
        width = compute_dtype(post.dtype, base.dtype)
        unsigned, signed = width.bits, f"<i{width.itemsize}"
        difference = self._widen(post, 0, width)
        subtrahend = self._widen(base, 1, width, count=len(difference))
        changed = np.count_nonzero(difference.view(unsigned) != subtrahend.view(unsigned))
        np.subtract(difference, subtrahend, out=difference)
        self._narrow(difference, stored)
        kept = self._widen(stored, 2, width)
        rest_bits = difference.view(unsigned) - kept.view(unsigned)
        places = np.flatnonzero(rest_bits)
        rest_at, rest = places.astype(np.uint32), rest_bits[places].view(signed)
        del rest_bits, places
        restored = Operand(np.empty_like(post.data), post.dtype)
        np.add(subtrahend, difference, out=kept)
        self._narrow(kept, restored)
        lost_at = np.flatnonzero(restored.bits != post.bits)
        lost = Corrections(rest_at, rest, lost_at.astype(np.uint32), post.bits[lost_at])
        return Subtracted(int(changed), lost)

    def add(self, base: Operand, terms: Sequence[Term], result: Operand) -> int:
        """See `Arithmetic.add`."""
        if len(terms) == 1 and self._is_plain_bf16(base, terms[0], result):
            finite = self._add_bf16(base, terms[0], result)
        else:
            finite = False  # as far as is known
            with np.errstate(all="ignore"):
                self._add_any(base, terms, result)
        return 0 if finite else count_nonfinite(result)

    @staticmethod
    def _is_plain_bf16(base: Operand, term: Term, result: Operand) -> bool:
        stored, count = term.stored, len(result.data)
        has_kernel = stored.dtype == BF16 or (stored.dtype == F32 and not len(term.rest_at))
        same_type = base.dtype == result.dtype == BF16 and has_kernel and term.width == F32
        same_length = (
            len(base.data) == count == len(stored.data) // stored.dtype.itemsize * BF16.itemsize
        )
        return same_type and same_length

    @staticmethod
    def _add_bf16(base: Operand, term: Term, result: Operand) -> bool:
        """The sum, if `_is_plain_bf16`. Returns whether it is finite; see `kernels.add_bf16`."""
        before, out = base.bits, result.bits
        if term.stored.dtype == F32:
            delta = term.stored.data.view(NUMPY_FLOATS[F32])
            return kernels.add_wide_bf16(before, delta, term.scale, out)
        return kernels.add_bf16(before, term.stored.bits, term.scale, out, term.rest_at, term.rest)

    def _add_any(self, base: Operand, terms: Sequence[Term], result: Operand) -> None:
        width = compute_dtype(base.dtype, *(term.width for term in terms))
        count = len(result.data) // result.dtype.itemsize
        total = self._widen(base, 0, width, count=count)
        for term in terms:
            delta = self._scaled(term, width)
            total[: len(delta)] += delta
        self._narrow(total, result)

    def combine(self, terms: Sequence[Term], stored: Operand) -> tuple[Operand, Corrections]:
        """Fill `stored` with the sum of the scaled terms; returns (the wide sum, what rounding lost).

        All terms have the length of `stored`. There are no exceptions, for there is no post. The sum is
        valid until the next call.
        """
        with np.errstate(all="ignore"):
            width = compute_dtype(*(term.width for term in terms))
            first, *others = terms
            total = self._array(0, width, len(stored.bits))
            np.copyto(total, self._scaled(first, width))
            for term in others:
                total += self._scaled(term, width)
            self._narrow(total, stored)
            kept = self._widen(stored, 2, width)
            rest = total.view(width.bits) - kept.view(width.bits)
            at = np.flatnonzero(rest)
            nothing = np.empty(0, np.uint32)
            signed = rest[at].view(f"<i{width.itemsize}")
            corrections = Corrections(
                at.astype(np.uint32), signed, nothing, np.empty(0, stored.dtype.bits)
            )
            return Operand(total.view(np.uint8), width), corrections

    def _scaled(self, term: Term, width: DType) -> NDArray[Any]:
        """A term's exact deltas times its scale, in `width`; in scratch 1 or 2."""
        delta = self._widen(term.stored, 1, term.width)
        if len(term.rest_at):
            delta.view(f"<i{term.width.itemsize}")[term.rest_at] += term.rest
        if term.width != width:
            wider = self._array(2, width, len(delta))
            np.copyto(wider, delta)
            delta = wider
        delta *= delta.dtype.type(term.scale)
        return delta

    def _array(self, slot: int, dtype: DType, count: int) -> NDArray[Any]:
        """Scratch space number `slot`, for `count` floats of `dtype`."""
        array = self._scratch.get((slot, dtype))
        if array is None:
            array = self._scratch[slot, dtype] = np.empty(CHUNK_ELEMENTS, NUMPY_FLOATS[dtype])
        return array[:count]

    def _widen(self, source: Operand, slot: int, width: DType, count: int = 0) -> NDArray[Any]:
        """The values of `source` as floats of `width`, in scratch `slot`, zeros up to `count`."""
        have = len(source.data) // source.dtype.itemsize
        out = self._array(slot, width, max(have, count))
        if source.dtype == BF16 and width == F32:
            kernels.widen_bf16(source.bits, out[:have])
        elif source.dtype == BF16:
            np.copyto(out[:have], self._widen(source, slot, F32))
        else:
            np.copyto(out[:have], source.data.view(NUMPY_FLOATS[source.dtype]))
        out[have:] = 0
        return out

    def _narrow(self, values: NDArray[Any], out: Operand) -> None:
        """Round `values` once, to nearest even, into `out`; every NaN becomes the same, in both."""
        values[np.isnan(values)] = np.nan
        if out.dtype != BF16:
            np.copyto(out.data.view(NUMPY_FLOATS[out.dtype]), values, casting="same_kind")
            return
        if values.dtype == np.float64:
            odd = np.empty(len(values), np.float32)
            kernels.round_to_odd(values, odd)
            values = odd
        kernels.narrow_bf16(values, out.bits)


def count_nonfinite(result: Operand) -> int:
    """How many elements are NaN or infinite, by their exponents."""
    mask = result.dtype.bits.type(_EXPONENTS[result.dtype])
    if mask.itemsize == 2 and not kernels.has_all_bits(result.bits, mask):
        return 0
    return int(np.count_nonzero((result.bits & mask) == mask))
