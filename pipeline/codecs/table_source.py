"""The codec's tables as numba compiles them: chosen, written, read, and unfolded for the loops.

See `kernel_source`, which has the loops over elements and says how these functions are written.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, njit, types  # type: ignore[attr-defined]

from pipeline.codecs.tables import BITS, MAX_SYMBOLS, TOTAL

U8, U32, U64, I64 = np.uint8, np.uint32, np.uint64, np.int64

_P8 = types.CPointer(types.uint8)
_P16 = types.CPointer(types.uint16)
_P32 = types.CPointer(types.uint32)
_P64 = types.CPointer(types.uint64)
_COSTS = types.CPointer(types.float32)
_TOTALS = types.CPointer(types.int64)
_N = types.int64


@njit(inline="always")
def _count_of(k, place, others, counts, values):
    """How often entry `k` occurs, the placeholder standing for all others."""
    return others if k == place else I64(counts[U64(values[U64(k)])])


@njit
def _share_out(counts, values, symbols, place, others, sum_counts, frequencies):
    """Frequencies: 1 for all below a unit, the rest in proportion; together `TOTAL`."""
    rare = 0
    rare_counts = 0
    for k in range(symbols):
        count = _count_of(k, place, others, counts, values)
        if count * TOTAL <= sum_counts:
            rare += 1
            rare_counts += count
    left = sum_counts - rare_counts
    room = TOTAL - rare
    missing = TOTAL
    for k in range(symbols):
        count = _count_of(k, place, others, counts, values)
        share = I64(1)
        if count * TOTAL > sum_counts:
            share = (2 * count * room + left) // (2 * left)
            share = share if share > 1 else I64(1)
        frequencies[U64(k)] = share
        missing -= share
    largest = 0
    for k in range(symbols):
        if frequencies[U64(k)] > frequencies[U64(largest)]:
            largest = k
    if missing > 0:
        frequencies[U64(largest)] += missing
    # Too many slots: up to a sixteenth of each from the most frequent values, then from others.
    most = I64(frequencies[U64(largest)])
    while missing < 0:
        most = most >> 1 if most > 4 else I64(2)
        for k in range(symbols):
            share = I64(frequencies[U64(k)])
            if share >= most and missing < 0:
                change = share >> 4 if share >= 16 else I64(1)
                change = change if change < -missing else -missing
                frequencies[U64(k)] = share - change
                missing += change


@cfunc(types.void(_P32, _N, _N, _COSTS, _P16, _P16, _TOTALS), error_model="numpy")
def plan(counts, size, total, costs, values, frequencies, totals):
    """Choose a table's values and frequencies. totals: see `kernels.Plan`; [2] is `sampled` before."""
    least = 2 + (total >> 15) if size > 256 else 1
    symbols = 0
    kept = 0
    for v in range(size):
        if counts[U64(v)] >= least:
            if symbols < MAX_SYMBOLS - 1:
                values[U64(symbols)] = v
                kept += counts[U64(v)]
            symbols += 1
    totals[0] = 0
    totals[1] = -1
    if symbols >= MAX_SYMBOLS:
        return
    # The placeholder of all others, where there are or may be any: the first value that is not taken.
    place = -1
    others = total - kept
    if size > 256 and (others > 0 or totals[2] != 0):
        place = 0
        while place < symbols and values[U64(place)] == place:
            place += 1
        for k in range(symbols, place, -1):
            values[U64(k)] = values[U64(k - 1)]
        values[U64(place)] = place
        symbols += 1
    if symbols < 2:
        return
    sum_counts = total if total > 0 else 1
    _share_out(counts, values, symbols, place, others, sum_counts, frequencies)
    bits = 0.0
    for k in range(symbols):
        count = _count_of(k, place, others, counts, values)
        bits += count * costs[U64(frequencies[U64(k)])]
    totals[0] = symbols
    totals[1] = place
    totals[2] = I64(bits)
    totals[3] = others


@cfunc(types.int64(_P16, _P16, _N, _P8, _N), error_model="numpy")
def write_table(values, frequencies, symbols, out, room):
    """The table as payloads have it (see `rans`): 7 bits to a byte. Returns how many, -1 for no room."""
    at = I64(0)
    free = I64(0)  # the lowest value that may come next
    for k in range(2 * symbols):
        number = I64(0)
        if k < symbols:
            number = I64(values[U64(k)]) - free
            free += number + 1
        else:
            number = I64(frequencies[U64(k - symbols)])
        more = True
        while more:
            if at >= room:
                return -1
            more = number >= 128
            out[U64(at)] = U8((number & 127) | (128 if more else 0))
            number >>= 7
            at += 1
    return at


@cfunc(types.int64(_P8, _N, _N, _N, _P32, _P16, _P16), error_model="numpy")
def decoding_table(data, room, symbols, bits, table, values, entries):
    """For each slot its number within its entry, the entry's frequency, and apart the entry's value."""
    at = I64(0)
    value = I64(-1)
    first = I64(0)
    for k in range(2 * symbols):
        number = I64(0)
        shift = I64(0)
        more = True
        while more:
            if at >= room or shift > 14:
                return -1
            byte = I64(data[U64(at)])
            at += 1
            number |= (byte & 127) << shift
            shift += 7
            more = byte >= 128
        if k < symbols:
            value += number + 1
            if value >> bits:
                return -1
            entries[U64(k)] = value
        else:
            if number == 0 or number >= TOTAL or first + number > TOTAL:
                return -1
            for slot in range(number):
                table[U64(first + slot)] = U32((slot << BITS) | number)
                values[U64(first + slot)] = entries[U64(k - symbols)]
            first += number
    return at if first == TOTAL else -1


@cfunc(types.void(_P16, _P16, _N, _N, _P64, _N), error_model="numpy")
def encoding_table(values, frequencies, symbols, place, table, size):
    """For each value: reciprocal, shift, bias and frequency, from the upper bits down (see `_push`)."""
    # Twice: the first time for the placeholder's entry alone, which all other values share.
    for others in range(1, -1, -1):
        first = I64(0)
        for k in range(symbols):
            f = I64(frequencies[U64(k)])
            shift = I64(0)
            while (I64(2) << shift) < f:
                shift += 1
            reciprocal = ((I64(1) << (32 + shift)) + f - 1) // f
            bias = first
            if f == 1:  # its reciprocal has 33 bits: the largest of 32 divides one too low
                reciprocal = (I64(1) << 32) - 1
                bias += TOTAL - 1
            word = U64(reciprocal) << U64(32)
            word |= U64((shift << (2 * BITS + 1)) | (bias << BITS) | f)
            first += f
            if others == 0:
                table[U64(values[U64(k)])] = word
            elif k == place:
                for v in range(size):
                    table[U64(v)] = word


ENTRY_POINTS: tuple[Any, ...] = (plan, write_table, decoding_table, encoding_table)
