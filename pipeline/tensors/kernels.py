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

SPAN = 4096  # elements of the inner loops: what they leave behind stays in the first-level cache
GROUP = 32  # words of four flags that are looked at together

_SIXTEEN = U32(16)
_ONE = U32(1)
_HALF = U32(0x7FFF)  # just under half a unit of bfloat16's last place
_F32_INF = U32(0x7F800000)
_F32_NAN = U32(0x7FC00000)
_F32_MAGNITUDE = U32(0x7FFFFFFF)
_BF16_INF = np.uint16(0x7F80)
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


@njit(inline="always")
def nearest_bf16(bits):  # type: ignore[no-untyped-def]
    """`round_bf16` for finite values and infinities only."""
    return U32(U32(bits + _HALF + U32(U32(bits >> _SIXTEEN) & _ONE)) >> _SIXTEEN)


@njit(nogil=True, cache=True)
def _subtract_finite(post, base, out, lost):  # type: ignore[no-untyped-def]
    """out = post - base, and in `lost` nonzero where that is not the whole truth.

    Says nothing of value where `out` is not finite: the caller looks.
    """
    for i in range(post.size):
        p = U32(post[i])
        base_value = wide(base[i])
        delta = wide(p) - base_value
        bits = bits_of(delta)
        high = nearest_bf16(bits)
        restored = nearest_bf16(bits_of(base_value + delta))
        rest = U32(U32(bits ^ U32(high << _SIXTEEN)) | U32(restored ^ p))
        out[i] = np.uint16(high)
        lost[i] = np.uint16(U32(rest | U32(rest >> _SIXTEEN)))


@njit(nogil=True, cache=True)
def _subtract_any(post, base, out, lost):  # type: ignore[no-untyped-def]
    """`_subtract_finite` for all values, an element at a time."""
    for i in range(post.size):
        bits = difference(post[i], base[i])
        high = round_bf16(bits)
        restored = round_bf16(bits_of(wide(base[i]) + float_of(bits)))
        out[i] = np.uint16(high)
        is_lost = bits != U32(high << _SIXTEEN) or restored != U32(post[i])
        lost[i] = np.uint16(is_lost)


@njit(nogil=True, cache=True)
def _count_differing(left, right):  # type: ignore[no-untyped-def]
    """How many of at most SPAN elements differ; in 16 bits, for vectors of 16-bit lanes."""
    total = np.uint16(0)
    for i in range(left.size):
        total = np.uint16(total + np.uint16(left[i] != right[i]))
    return total


@njit(nogil=True, cache=True)
def has_all_bits(source, mask):  # type: ignore[no-untyped-def]
    """Whether any of the uint16 has all bits of `mask` set: with the exponent's, is not finite."""
    largest = np.uint16(0)
    for i in range(source.size):
        value = np.uint16(source[i] & mask)
        largest = value if value > largest else largest
    return largest == mask


@njit(inline="always")
def _any_nonzero(words):  # type: ignore[no-untyped-def]
    """Whether any of the uint64 is not zero, without a branch for each."""
    seen = np.uint64(0)
    for i in range(words.size):
        seen |= words[i]
    return seen != 0


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
    flags = np.zeros(SPAN, np.uint16)
    words = flags.view(np.uint64)
    for start in range(0, post.size, SPAN):
        p = post[start : start + SPAN]
        b = base[start : start + SPAN]
        o = out[start : start + SPAN]
        if p.size < SPAN:
            flags[p.size :] = 0
        _subtract_finite(p, b, o, flags)
        if has_all_bits(o, _BF16_INF):
            _subtract_any(p, b, o, flags)
        changed += _count_differing(p, b)
        for group in range(0, words.size, GROUP):
            if not _any_nonzero(words[group : group + GROUP]):
                continue
            for word in range(group, group + GROUP):
                if words[word] == 0:
                    continue
                for i in range(4 * word, 4 * word + 4):
                    if flags[i] == 0:
                        continue
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
def add_bf16_at(base, stored, scale, rest_at, rest, out):  # type: ignore[no-untyped-def]
    """`add_bf16` again where `stored` is not exact, with its remainders."""
    for k in range(rest_at.size):
        i = rest_at[k]
        delta = float_of(U32(U32(U32(stored[i]) << _SIXTEEN) + U32(rest[k])))
        out[i] = np.uint16(round_bf16(bits_of(wide(base[i]) + scale * delta)))


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
