"""The inner loops, compiled by numba: pure functions on flat arrays of bits, no allocation.

Loops run over bits rather than floats, because bfloat16 has no numpy type and because exactness is
about bits: -0.0, infinities and NaN payloads count. The formulas are those of
`pipeline.tensors.arithmetic`.

`U32(...)` around every operation is not decoration: numba widens integer results to 64 bits, which
halves the width of the vector instructions that the compiler can use.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

U32 = np.uint32

SPAN = 256  # elements between two looks at the "something rare happened" flag

_SIXTEEN = U32(16)
_ONE = U32(1)
_HALF = U32(0x7FFF)  # just under half a unit of bfloat16's last place
_F32_INF = U32(0x7F800000)
_F32_NAN = U32(0x7FC00000)
_F32_MAGNITUDE = U32(0x7FFFFFFF)
_BF16_INF = U32(0x7F80)
_BF16_QUIET = U32(0x40)


@intrinsic
def float_of(typingctx, bits):  # type: ignore[no-untyped-def]
    """The float32 whose bits are the uint32 `bits`."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.uint32), codegen


@intrinsic
def bits_of(typingctx, value):  # type: ignore[no-untyped-def]
    """The bits, as uint32, of the float32 `value`."""

    def codegen(context, builder, signature, args):  # type: ignore[no-untyped-def]
        return builder.bitcast(args[0], ir.IntType(32))

    return types.uint32(types.float32), codegen


@njit(inline="always")
def round_bf16(bits):  # type: ignore[no-untyped-def]
    """The bfloat16 bits nearest to the float32 with `bits`, ties to even; NaN stays NaN."""
    rounded = U32(U32(bits + _HALF + U32(U32(bits >> _SIXTEEN) & _ONE)) >> _SIXTEEN)
    quieted = U32(U32(bits >> _SIXTEEN) | _BF16_QUIET)
    return quieted if U32(bits & _F32_MAGNITUDE) > _F32_INF else rounded


@njit(inline="always")
def wide(bf16):  # type: ignore[no-untyped-def]
    """The float32 value of bfloat16 bits."""
    return float_of(U32(U32(bf16) << _SIXTEEN))


@njit(inline="always")
def difference(post, base):  # type: ignore[no-untyped-def]
    """The float32 bits of post - base for bfloat16 bits; every NaN is the one canonical NaN."""
    bits = bits_of(wide(post) - wide(base))
    return _F32_NAN if U32(bits & _F32_MAGNITUDE) > _F32_INF else bits


@njit(nogil=True, cache=True)
def _subtract_span(post, base, out):  # type: ignore[no-untyped-def]
    """out = post - base; returns (nonzero if anything is lost by rounding, elements that differ)."""
    rare = U32(0)
    changed = U32(0)
    for i in range(post.size):
        p = U32(post[i])
        b = U32(base[i])
        bits = difference(p, b)
        high = round_bf16(bits)
        out[i] = np.uint16(high)
        restored = round_bf16(bits_of(wide(b) + float_of(bits)))
        rare = U32(rare | U32(U32(bits ^ U32(high << _SIXTEEN)) | U32(restored ^ p)))
        changed = U32(changed + U32(p != b))
    return rare, changed


@njit(nogil=True, cache=True)
def subtract_bf16(post, base, out, rest_at, rest, lost_at, lost):  # type: ignore[no-untyped-def]
    """out = post - base in bfloat16, and what rounding lost; all flat arrays of post's length.

    post, base, out, lost: uint16 bits. rest_at, lost_at: uint32 positions. rest (int32): by how much
    the bits of the exact float32 difference exceed those of `out`. lost: post's own bits where base
    plus the exact difference, rounded, is not post.
    Returns (changed elements, remainders, exceptions).
    """
    changed = 0
    rests = 0
    losses = 0
    for start in range(0, post.size, SPAN):
        p = post[start : start + SPAN]
        b = base[start : start + SPAN]
        o = out[start : start + SPAN]
        rare, differing = _subtract_span(p, b, o)
        changed += differing
        if rare:
            for i in range(p.size):
                bits = difference(p[i], b[i])
                low = np.int32(U32(bits - U32(U32(o[i]) << _SIXTEEN)))
                if low != 0:
                    rest_at[rests] = start + i
                    rest[rests] = low
                    rests += 1
                if round_bf16(bits_of(wide(b[i]) + float_of(bits))) != U32(p[i]):
                    lost_at[losses] = start + i
                    lost[losses] = p[i]
                    losses += 1
    return changed, rests, losses


@njit(nogil=True, cache=True)
def add_bf16(base, stored, scale, out):  # type: ignore[no-untyped-def]
    """out = base + scale * stored: bfloat16 bits of one length, float32 scale, rounded once."""
    for i in range(base.size):
        out[i] = np.uint16(round_bf16(bits_of(wide(base[i]) + scale * wide(stored[i]))))


@njit(nogil=True, cache=True)
def widen_bf16(source, out):  # type: ignore[no-untyped-def]
    """out (float32) = the values of bfloat16 bits."""
    for i in range(source.size):
        out[i] = wide(source[i])


@njit(nogil=True, cache=True)
def narrow_bf16(source, out):  # type: ignore[no-untyped-def]
    """out = the bfloat16 bits nearest to float32 values, ties to even."""
    for i in range(source.size):
        out[i] = np.uint16(round_bf16(bits_of(source[i])))


@njit(nogil=True, cache=True)
def count_with_bits(source, mask):  # type: ignore[no-untyped-def]
    """How many elements have all bits of `mask` set: with the exponent's mask, the non-finite ones."""
    total = 0
    for i in range(source.size):
        total += (source[i] & mask) == mask
    return total


@njit(nogil=True, cache=True)
def round_to_odd(source, out):  # type: ignore[no-untyped-def]
    """out (float32) = float64 values truncated, with the last bit set where anything was cut off.

    A second rounding to a narrower format is then as good as one rounding from float64 (Boldo and
    Melquiond, "Emulation of FMA and correctly rounded sums", IEEE TC 2008).
    """
    for i in range(source.size):
        value = np.float32(source[i])
        if np.float64(value) == source[i] or value != value:
            out[i] = value
        else:
            bits = bits_of(value)
            if abs(np.float64(value)) > abs(source[i]):
                bits = U32(bits - _ONE)
            out[i] = float_of(U32(bits | _ONE))
