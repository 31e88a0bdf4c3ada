"""The entropy coder's two loops and the filling in of escapes, 16 lanes to an instruction, for AVX-512.

Part of `kernel_source`, see there. LLVM makes vectors of most loops by itself, but not of these: which
lanes take a word from the stream depends on data, and taking it is an instruction (expand, compress).
So the steps are spelled out in LLVM's vector types, with the processor's gather, expand and compress.

A step loads or stores 16 words where it needs only some. Behind the words that it reads, the states
follow in the payload; the callers leave room behind those that it writes.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import cfunc, types  # type: ignore[attr-defined]
from numba.extending import intrinsic

from pipeline.codecs.tables import BITS, LANES, LOWEST, TOTAL
from pipeline.tensors.vector_source import FLAGS, I32, I64, WIDE, WIDTH, Steps

NEEDED = ("avx512f", "avx512bw", "avx512vl", "avx512dq")

_I8 = ir.IntType(8)
_PAIRS = ir.VectorType(I64, WIDTH // 2)

_P8 = types.CPointer(types.uint8)
_P16 = types.CPointer(types.uint16)
_P32 = types.CPointer(types.uint32)
_P64 = types.CPointer(types.uint64)
_TOTALS = types.CPointer(types.int64)
_N = types.int64


class _Steps(Steps):
    """The instructions of a step, and those of AVX-512."""

    def gather(self, pointer, indices, scale):
        """The 32 bits at `pointer` plus each of the indices times `scale` bytes."""
        return self.call(
            "llvm.x86.avx512.mask.gather.dpi.512",
            WIDE,
            self.all(WIDE, 0),
            self.b.bitcast(pointer, _I8.as_pointer()),
            indices,
            self.all(FLAGS, 1),
            ir.Constant(I32, scale),
        )

    def compress(self, wide, mask):
        """The numbers that `mask` names, moved to the front."""
        return self.call("llvm.x86.avx512.mask.compress.v16i32", WIDE, wide, self.all(WIDE, 0), mask)

    def expand(self, wide, mask):
        """The first numbers, moved to where `mask` wants one."""
        return self.call("llvm.x86.avx512.mask.expand.v16i32", WIDE, wide, self.all(WIDE, 0), mask)

    def high_product(self, left, right):
        """The upper 32 bits of each product: those of even and of odd lanes apart."""
        b = self.b
        low, by = self.all(_PAIRS, 0xFFFFFFFF), self.all(_PAIRS, 32)
        lefts, rights = b.bitcast(left, _PAIRS), b.bitcast(right, _PAIRS)
        even = b.lshr(b.mul(b.and_(lefts, low), b.and_(rights, low)), by)
        odd = b.and_(b.mul(b.lshr(lefts, by), b.lshr(rights, by)), self.all(_PAIRS, 0xFFFFFFFF << 32))
        return b.bitcast(b.or_(even, odd), WIDE)


@intrinsic
def encode_step(typingctx, data, at, states, lane, table, words, entry, escapes, filled):
    """Encode 16 elements from data[at] into states[lane]; those whose table entry is `entry` escape.

    filled: words used, plus 2^32 times the escapes; returns what it is then.
    """

    def codegen(context, builder, signature, args):
        data, at, states, lane, table, words, entry, escapes, filled = args
        s, b = _Steps(builder), builder
        value = s.load(data, at, signature.args[0].dtype.bitwidth)
        packed = s.gather(table, value, 8)
        upper = b.gep(b.bitcast(table, I32.as_pointer()), [ir.Constant(I64, 1)])
        reciprocal = s.gather(upper, value, 8)
        frequency = b.and_(packed, s.all(WIDE, TOTAL - 1))
        x = s.load(states, lane, 32)
        over = b.icmp_unsigned(">=", x, b.shl(frequency, s.all(WIDE, 31 - BITS)))
        used = b.and_(filled, ir.Constant(I64, 0xFFFFFFFF))
        s.store(s.compress(x, over), words, used)
        x = b.select(over, b.lshr(x, s.all(WIDE, 16)), x)
        shift = b.lshr(packed, s.all(WIDE, 2 * BITS + 1))
        quotient = b.lshr(s.high_product(x, reciprocal), shift)
        bias = b.and_(b.lshr(packed, s.all(WIDE, BITS)), s.all(WIDE, 2 * TOTAL - 1))
        rest = b.sub(s.all(WIDE, TOTAL), frequency)
        s.store(b.add(x, b.add(b.mul(quotient, rest), bias)), states, lane, 32)
        escaping = b.icmp_unsigned("==", packed, s.every(entry))
        s.store(s.compress(value, escaping), escapes, b.lshr(filled, ir.Constant(I64, 32)))
        more = b.shl(s.how_many(escaping), ir.Constant(I64, 32))
        return b.add(filled, b.add(s.how_many(over), more))

    kinds = (data, types.int64, _P32, types.int64, _P64, _P16, types.uint32, _P16, types.int64)
    return types.int64(*kinds), codegen


@intrinsic
def decode_step(typingctx, words, left, states, lane, table, values, out, at):
    """Decode 16 elements into out[at] from states[lane]; returns how many words are left then."""

    def codegen(context, builder, signature, args):
        words, left, states, lane, table, values, out, at = args
        s, b = _Steps(builder), builder
        x = s.load(states, lane, 32)
        slot = b.and_(x, s.all(WIDE, TOTAL - 1))
        entry = s.gather(table, slot, 4)
        value = s.gather(values, slot, 2)  # and its neighbour, which the store cuts off
        s.store(value, out, at, signature.args[6].dtype.bitwidth)
        frequency = b.and_(entry, s.all(WIDE, TOTAL - 1))
        scaled = b.mul(frequency, b.lshr(x, s.all(WIDE, BITS)))
        x = b.add(scaled, b.lshr(entry, s.all(WIDE, BITS)))
        short = b.icmp_unsigned("<", x, s.all(WIDE, LOWEST))
        left = b.sub(left, s.how_many(short))
        word = s.expand(s.load(words, left), short)
        longer = b.or_(b.shl(x, s.all(WIDE, 16)), word)
        s.store(b.select(short, longer, x), states, lane, 32)
        return left

    return types.int64(
        _P16, types.int64, _P32, types.int64, _P32, _P16, out, types.int64
    ), codegen  # fmt: skip


@intrinsic
def fill_step(typingctx, out, at, place, escapes, found):
    """Replace those of 16 elements that equal `place`; returns how many escapes are used then."""

    def codegen(context, builder, signature, args):
        out, at, place, escapes, found = args
        s, b = _Steps(builder), builder
        value = s.load(out, at)
        mask = b.icmp_unsigned("==", value, s.every(b.zext(place, I32)))
        s.store(b.select(mask, s.expand(s.load(escapes, found), mask), value), out, at)
        return b.add(found, s.how_many(mask))

    return types.int64(_P16, types.int64, types.uint16, _P16, types.int64), codegen


def _encode(data, end, states, table, words, room, escapes, place, totals):
    entry = np.uint32(table[place]) if place >= 0 else np.uint32(0)  # no entry is 0
    filled = np.int64(0)
    for i in range(0, end, LANES):
        if (filled & 0xFFFFFFFF) + LANES > room:
            return 0
        for lane in range(0, LANES, WIDTH):
            filled = encode_step(data, i + lane, states, lane, table, words, entry, escapes, filled)
    totals[0] = filled & 0xFFFFFFFF
    totals[1] = filled >> 32
    return 1


def encode(pointer, name):
    """The encoder's loop for elements of one width."""
    signature = types.int64(pointer, _N, _P32, _P64, _P16, _N, _P16, _N, _TOTALS)
    entry = cfunc(signature, error_model="numpy")(_encode)
    entry.__name__ = name
    return entry


def _decode(words, states, table, values, out, end, totals):
    left = np.int64(totals[0])
    i = end
    while i > 0 and left >= LANES:
        i -= LANES
        for lane in range(LANES - WIDTH, -WIDTH, -WIDTH):
            left = decode_step(words, left, states, lane, table, values, out, i + lane)
    totals[0] = left
    return i


def decode(pointer, name):
    """The decoder's loop for elements of one width."""
    signature = types.int64(_P16, _P32, _P32, _P16, pointer, _N, _TOTALS)
    entry = cfunc(signature, error_model="numpy")(_decode)
    entry.__name__ = name
    return entry


def _fill_in(out, end, place, escapes):
    found = np.int64(0)
    for i in range(0, end, WIDTH):
        found = fill_step(out, i, place, escapes, found)
    return found


def _entry_points() -> tuple[Any, ...]:
    """None at all where the processor lacks the instructions: they could not even be compiled."""
    features = llvm.get_host_cpu_features()
    if not all(features.get(name, False) for name in NEEDED):
        return ()
    fill = cfunc(types.int64(_P16, _N, types.uint16, _P16), error_model="numpy")(_fill_in)
    fill.__name__ = "fill_in_wide"
    return (
        encode(_P8, "encode8_wide"),
        encode(_P16, "encode16_wide"),
        decode(_P8, "decode8_wide"),
        decode(_P16, "decode16_wide"),
        fill,
    )


ENTRY_POINTS: tuple[Any, ...] = _entry_points()
