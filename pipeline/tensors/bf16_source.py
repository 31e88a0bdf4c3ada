"""The formulas on 16 bfloat16 at once; part of `kernel_source`, see there and `vector_source`.

The sums that a step adds to are 512 side by side, each in order: of squared differences, of the base's
squares, and behind them the largest magnitude of a difference in each lane. A row of them is a little
longer than it must be: where addresses are alike in their last 12 bits, a processor takes a load for
one of what was stored a moment ago, and waits.
"""

from __future__ import annotations

from llvmlite import ir
from numba import types  # type: ignore[attr-defined]
from numba.extending import intrinsic

from pipeline.tensors.vector_source import FLOATS, I64, WIDE, WIDTH, Steps

LANES = 512  # of sums side by side, each in order: the same for vectors of any width
ROW = LANES + 16  # from a sum to the next one of its lane
SUMMED = 128  # elements of a step of addition

_LOW = 0xFFFF
_HALF = 0x7FFF  # just under half a unit of bfloat16's last place
_INF = 0x7F800000
_MAGNITUDE = 0x7FFFFFFF

_BITS = types.CPointer(types.uint16)
_FLOATS = types.CPointer(types.float32)


class _Arithmetic(Steps):
    """The steps' common parts."""

    def floats(self, bits):
        return self.b.bitcast(bits, FLOATS)

    def bits(self, values):
        return self.b.bitcast(values, WIDE)

    def difference(self, post, base):
        """The bits of post - base, and of its magnitude."""
        bits = self.bits(self.b.fsub(self.floats(post), self.floats(base)))
        return bits, self.b.and_(bits, self.all(WIDE, _MAGNITUDE))

    def is_not_finite(self, magnitude):
        return self.b.icmp_unsigned(">=", magnitude, self.all(WIDE, _INF))

    def put_sum(self, base, delta, scale, out, at):
        """out = base + scale * delta; returns magnitudes, infinity's or more where it is not finite."""
        b = self.b
        scaled = b.fmul(self.every(scale, FLOATS), delta)
        bits = self.bits(b.fadd(self.floats(self.widen(base, at)), scaled))
        odd = b.and_(b.lshr(bits, self.all(WIDE, 16)), self.all(WIDE, 1))
        more = b.add(odd, self.all(WIDE, _HALF))
        self.store(b.lshr(b.add(bits, more), self.all(WIDE, 16)), out, at)
        return b.add(b.and_(bits, self.all(WIDE, _MAGNITUDE)), more)  # without its sign no NaN wraps

    def put_sums(self, base, delta, scale, out, at):
        """`put_sum` for `SUMMED` elements; returns a bit for each lane with one that is not finite.

        delta: makes 16 elements of it, from the one with a number on.
        """
        largest = self.all(WIDE, 0)
        for first in range(0, SUMMED, WIDTH):
            here = self.b.add(at, ir.Constant(I64, first))
            size = self.put_sum(base, delta(here), scale, out, here)
            largest = self.b.select(self.b.icmp_unsigned(">", size, largest), size, largest)
        return self.mask(self.is_not_finite(largest))

    def add_squares(self, difference, base, magnitude, sums, lane):
        """Add to the sums from lane number `lane` on."""
        for row, bits in enumerate((difference, base)):
            at = self.b.add(lane, ir.Constant(I64, row * ROW))
            values = self.floats(bits)
            total = self.b.fadd(self.floats(self.load(sums, at, 32)), self.b.fmul(values, values))
            self.store(self.bits(total), sums, at, 32)
        at = self.b.add(lane, ir.Constant(I64, 2 * ROW))
        largest = self.load(sums, at, 32)
        grown = self.b.icmp_unsigned(">", magnitude, largest)
        self.store(self.b.select(grown, magnitude, largest), sums, at, 32)


@intrinsic
def subtract_step(typingctx, post, base, out, at, sums, lane):
    """out = post - base from element `at` on, where that is exact; adds to the sums from `lane` on.

    Returns a bit for each element that must be looked at again: the difference has bits below
    bfloat16's last place, or is not finite, or base + difference is not post in float32 already. And
    2^32 times how many elements differ.
    """

    def codegen(context, builder, signature, args):
        post, base, out, at, sums, lane = args
        s, b = _Arithmetic(builder), builder
        ours, theirs = s.widen(post, at), s.widen(base, at)
        bits, magnitude = s.difference(ours, theirs)
        s.store(b.lshr(bits, s.all(WIDE, 16)), out, at)
        s.add_squares(bits, theirs, magnitude, sums, lane)
        back = s.bits(b.fadd(s.floats(theirs), s.floats(bits)))
        astray = b.or_(b.and_(bits, s.all(WIDE, _LOW)), b.xor(back, ours))
        inexact = b.icmp_unsigned("!=", astray, s.all(WIDE, 0))
        suspect = s.mask(b.or_(inexact, s.is_not_finite(magnitude)))
        differ = s.how_many(b.icmp_unsigned("!=", ours, theirs))
        return b.or_(suspect, b.shl(differ, ir.Constant(I64, 32)))

    kinds = (_BITS, _BITS, _BITS, types.int64, _FLOATS, types.int64)
    return types.int64(*kinds), codegen


@intrinsic
def squares_step(typingctx, post, base, at, sums, lane):
    """What `subtract_step` adds to the sums, and nothing else."""

    def codegen(context, builder, signature, args):
        post, base, at, sums, lane = args
        s = _Arithmetic(builder)
        theirs = s.widen(base, at)
        bits, magnitude = s.difference(s.widen(post, at), theirs)
        s.add_squares(bits, theirs, magnitude, sums, lane)
        return context.get_dummy_value()

    return types.void(_BITS, _BITS, types.int64, _FLOATS, types.int64), codegen


@intrinsic
def subtract_wide_step(typingctx, post, base, out, at):
    """out = post - base in float32 from element `at` on, where that is finite.

    Returns a bit for each element that must be looked at again: the difference is not finite, or base +
    difference is not post in float32 already. And 2^32 times how many elements differ.
    """

    def codegen(context, builder, signature, args):
        post, base, out, at = args
        s, b = _Arithmetic(builder), builder
        ours, theirs = s.widen(post, at), s.widen(base, at)
        bits, magnitude = s.difference(ours, theirs)
        s.store(bits, out, at, 32)
        astray = b.icmp_unsigned("!=", s.bits(b.fadd(s.floats(theirs), s.floats(bits))), ours)
        suspect = s.mask(b.or_(astray, s.is_not_finite(magnitude)))
        differ = s.how_many(b.icmp_unsigned("!=", ours, theirs))
        return b.or_(suspect, b.shl(differ, ir.Constant(I64, 32)))

    return types.int64(_BITS, _BITS, _FLOATS, types.int64), codegen


@intrinsic
def add_step(typingctx, base, stored, scale, out, at):
    """out = base + scale * stored for `SUMMED` elements from `at` on, rounded once, if that is finite.

    Returns 0 if all of it is.
    """

    def codegen(context, builder, signature, args):
        base, stored, scale, out, at = args
        s = _Arithmetic(builder)
        return s.put_sums(base, lambda here: s.floats(s.widen(stored, here)), scale, out, at)

    return types.int64(_BITS, _BITS, types.float32, _BITS, types.int64), codegen


@intrinsic
def add_wide_step(typingctx, base, delta, scale, out, at):
    """`add_step` for a delta in float32."""

    def codegen(context, builder, signature, args):
        base, delta, scale, out, at = args
        s = _Arithmetic(builder)
        return s.put_sums(base, lambda here: s.floats(s.load(delta, here, 32)), scale, out, at)

    return types.int64(_BITS, _FLOATS, types.float32, _BITS, types.int64), codegen
