"""The entropy coder's loops, as functions of arrays. Each releases the GIL while it runs.

Arrays are flat and contiguous. `rans` says what tables, states and words are. A loop of which there are
two versions, one of them for AVX-512, is given as an element range: the vectors take what they can, the
plain loop the rest, and both write the same.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.codecs.tables import LANES, TOTAL
from pipeline.tensors.dtypes import Bytes
from pipeline.tensors.native import Source, load

U16Array = NDArray[np.uint16]
U32Array = NDArray[np.uint32]
U64Array = NDArray[np.uint64]
Elements = NDArray[Any]  # uint8 or uint16

VECTOR = 16  # elements that a vector loop may touch behind the end of an escape list

_SOURCE = Source(
    "pipeline.codecs.kernel_source", ("pipeline.codecs.vector_source", "pipeline.codecs.tables")
)
_P, _N, _U16 = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint16
_ENCODE = (_N, (_P, _N, _N, _P, _N, _P, _P, _N, _P, _N, _P))
_ENCODE_WIDE = (_N, (_P, _N, _P, _P, _P, _N, _P, _N, _P))
_DECODE = (_N, (_P, _P, _N, _P, _P, _P, _N, _N, _P))
_DECODE_WIDE = (_N, (_P, _P, _P, _P, _P, _N, _P))
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "is_constant": (_N, (_P, _N, _N)),
    "count8": (_N, (_P, _N, _N, _P, _N)),
    "count16": (_N, (_P, _N, _N, _P, _N)),
    "plan": (None, (_P, _N, _N, _P, _P, _P, _P)),
    "split_bits": (_N, (_P, _N, _P)),
    "encoding_table": (None, (_P, _P, _N, _N, _P, _N)),
    "encode8": _ENCODE,
    "encode16": _ENCODE,
    "encode8_wide": _ENCODE_WIDE,
    "encode16_wide": _ENCODE_WIDE,
    "decoding_table": (_N, (_P, _N, _N, _N, _P, _P)),
    "decode8": _DECODE,
    "decode16": _DECODE,
    "decode8_wide": _DECODE_WIDE,
    "decode16_wide": _DECODE_WIDE,
    "fill_in": (_N, (_P, _N, _N, _U16, _P)),
    "fill_in_wide": (_N, (_P, _N, _U16, _P)),
}

# Bits that a value of frequency f costs; 0 is for one that has no share at all.
_COSTS = np.log2(TOTAL / np.maximum(np.arange(TOTAL + 1), 0.5)).astype(np.float32)

_lock = threading.Lock()
_functions: dict[str, Any] = {}


def _function(name: str) -> Any:
    """The kernel called `name`, or None; all are loaded when the first one is wanted."""
    if not _functions:
        with _lock:
            if not _functions:
                found = load(_SIGNATURES, _SOURCE)
                _functions.update(
                    (each, ctypes.CFUNCTYPE(result, *arguments)(found[each]) if found[each] else None)
                    for each, (result, arguments) in _SIGNATURES.items()
                )
    return _functions[name]


def has_vectors() -> bool:
    """Whether this processor runs the vector loops."""
    return _function("encode16_wide") is not None


def is_constant(data: Bytes, itemsize: int) -> bool:
    """Whether all elements of `itemsize` bytes are the same."""
    return bool(_function("is_constant")(_at(data), len(data), itemsize))


def count(data: Elements, sampled: bool, counts: U32Array) -> int:
    """Fill `counts`, twice as long as there are values, with how often each occurs; how many were counted.

    The second half is scratch space. sampled: look at about a quarter of the elements.
    """
    size = len(counts) // 2
    kernel = _function(f"count{8 * data.itemsize}")
    return int(kernel(_at(data), len(data), sampled, _at(counts), size))


def plan(
    counts: U32Array, total: int, sampled: bool, values: U16Array, frequencies: U16Array
) -> tuple[int, int, int, int]:
    """Choose the values that get an entry, ascending, and their frequencies, which add up to `TOTAL`.

    Returns (entries, the placeholder's value or -1, bits of the coded elements, elements that escape),
    the last two as counted. No entries: there is no table worth having.
    """
    totals = np.array([0, -1, sampled, 0], np.int64)
    _function("plan")(
        _at(counts), len(counts) // 2, total, _at(_COSTS), _at(values), _at(frequencies), _at(totals)
    )
    symbols, place, bits, others = totals.tolist()
    return symbols, place, bits, others


def split_bits(counts: U32Array, total: int) -> int:
    """Bits that the counted 16-bit values would take as two planes of bytes."""
    return int(_function("split_bits")(_at(counts), total, _at(_COSTS)))


def encoding_table(
    values: U16Array, frequencies: U16Array, symbols: int, place: int, table: U64Array
) -> None:
    """Fill `table`, an entry per possible value, for `encode`."""
    _function("encoding_table")(
        _at(values), _at(frequencies), symbols, place, _at(table), len(table)
    )  # fmt: skip


def encode(
    data: Elements,
    states: U32Array,
    table: U64Array,
    place: int,
    words: Bytes,
    escapes: U16Array,
    vectors: bool,
) -> tuple[int, int] | None:
    """Encode `data`; returns (words written, escapes written), or None if `words` is too small.

    states: one per lane, updated. escapes: room for `VECTOR` elements more than escape.
    """
    bits, lanes, room = 8 * data.itemsize, len(states), len(words) // 2
    totals = np.zeros(2, np.int64)
    start = 0
    if vectors and lanes == LANES and (wide := _function(f"encode{bits}_wide")):
        start = len(data) // LANES * LANES
        if not wide(
            _at(data), start, _at(states), _at(table), _at(words), room, _at(escapes), place, _at(totals)
        ):
            return None
    if not _function(f"encode{bits}")(
        _at(data), start, len(data), _at(states), lanes, _at(table), _at(words), room, _at(escapes),
        place, _at(totals),
    ):  # fmt: skip
        return None
    used, escaped = totals.tolist()
    return used, escaped


def decoding_table(
    data: Bytes, symbols: int, itemsize: int, table: U32Array, values: U16Array
) -> int | None:
    """Fill both tables from the bytes of a payload; how many bytes that were, or None for damage."""
    used = _function("decoding_table")(_at(data), len(data), symbols, itemsize, _at(table), _at(values))
    return None if used < 0 else int(used)


def decode(
    words: Bytes,
    count: int,
    states: U32Array,
    table: U32Array,
    values: U16Array,
    out: Elements,
    vectors: bool,
) -> bool:
    """Fill `out` from the first `count` words of `words`; whether they were exactly as many as needed.

    states: one per lane, updated. `words` has 4 bytes more per lane than its words take.
    """
    bits, lanes, end = 8 * out.itemsize, len(states), len(out)
    plain = _function(f"decode{bits}")
    totals = np.array([count], np.int64)
    if vectors and lanes == LANES and (wide := _function(f"decode{bits}_wide")):
        tail = end // LANES * LANES
        if not plain(
            _at(words), _at(states), lanes, _at(table), _at(values), _at(out), tail, end, _at(totals)
        ):
            return False
        end = wide(
            _at(words), _at(states), _at(table), _at(values), _at(out), tail, _at(totals)
        )  # fmt: skip
    done = plain(_at(words), _at(states), lanes, _at(table), _at(values), _at(out), 0, end, _at(totals))
    return bool(done) and not totals[0]


def fill_in(out: U16Array, place: int, escapes: U16Array, vectors: bool) -> int:
    """Replace each element that equals `place` by the next escape; how many there were.

    escapes: `VECTOR` elements longer than `out`.
    """
    found = start = 0
    if vectors and (wide := _function("fill_in_wide")):
        start = len(out) // VECTOR * VECTOR
        found = wide(_at(out), start, place, _at(escapes))
    return found + int(
        _function("fill_in")(_at(out), start, len(out), place, _at(escapes[found:]))
    )  # fmt: skip


def _at(array: NDArray[Any]) -> int:
    """The address of a flat array's first element."""
    assert array.flags.c_contiguous, "a kernel was given an array with gaps"
    return array.ctypes.data
