"""The entropy coder's loops, as functions of arrays. Each releases the GIL while it runs.

Arrays are flat and contiguous. `rans` says what tables, states and words are. Of some loops there are
two versions: the vectors take the elements that fill them, the plain loop the rest, and both write the
same bytes.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.codecs.tables import LANES, LOWEST, MAX_ELEMENTS, MAX_SYMBOLS, TOTAL
from pipeline.tensors.dtypes import Bytes
from pipeline.tensors.native import VECTORS, Functions, Source, address_of

U16Array = NDArray[np.uint16]
Elements = NDArray[Any]  # uint8 or uint16

VECTOR = 16  # escapes that a vector loop may read or write behind the last one

_SOURCE = Source(
    "pipeline.codecs.kernel_source",
    (*(f"pipeline.codecs.{name}" for name in ("table_source", "vector_source", "tables")), VECTORS),
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
    "write_table": (_N, (_P, _P, _N, _P, _N)),
    "encoding_table": (None, (_P, _P, _N, _N, _P, _N)),
    "encode8": _ENCODE,
    "encode16": _ENCODE,
    "encode8_wide": _ENCODE_WIDE,
    "encode16_wide": _ENCODE_WIDE,
    "decoding_table": (_N, (_P, _N, _N, _N, _P, _P, _P)),
    "decode8": _DECODE,
    "decode16": _DECODE,
    "decode8_wide": _DECODE_WIDE,
    "decode16_wide": _DECODE_WIDE,
    "fill_in": (_N, (_P, _N, _N, _U16, _P)),
    "fill_in_wide": (_N, (_P, _N, _U16, _P)),
}

# Bits that a value of frequency f costs; 0 is for one that has no share at all.
_COSTS = np.log2(TOTAL / np.maximum(np.arange(TOTAL + 1), 0.5)).astype(np.float32)
_COSTS_AT = _COSTS.ctypes.data

_functions = Functions(_SIGNATURES, _SOURCE)


def has_vectors() -> bool:
    """Whether this processor runs the vector loops."""
    return _functions["encode16_wide"] is not None


def is_constant(data: Bytes, itemsize: int) -> bool:
    """Whether all elements of `itemsize` bytes are the same."""
    return bool(_functions["is_constant"](address_of(data), len(data), itemsize))


@dataclass(frozen=True, slots=True)
class Plan:
    """A table for encoding, and what it promises, from the `total` elements that were counted.

    symbols: entries, 0 if there is no table worth having. place: the placeholder's value, -1 for none.
    bits: of the coded elements. others: elements that escape.
    """

    symbols: int
    place: int
    bits: int
    others: int
    total: int


class Workspace:
    """The loops with the arrays that they share, for one thread.

    Addresses are looked up once, because asking numpy for one takes longer than a short loop runs.
    """

    def __init__(self, *, vectors: bool) -> None:
        self._vectors = vectors and has_vectors()
        self.values = np.empty(MAX_SYMBOLS + 1, np.uint16)  # of the last plan, ascending
        self.frequencies = np.empty(MAX_SYMBOLS + 1, np.uint16)  # which add up to `TOTAL`
        self.states = np.empty(LANES, np.uint32)
        self.escapes = np.empty(MAX_ELEMENTS + VECTOR, np.uint16)
        self._no_escapes = np.empty(VECTOR, np.uint16)
        self._totals = np.zeros(4, np.int64)
        self._counts = np.empty(2 << 16, np.uint32)
        self._entries = np.empty(1 << 16, np.uint64)
        self._slots = np.empty(TOTAL, np.uint32)
        self._symbols = np.empty(TOTAL, np.uint16)
        self._slot_values = np.zeros(TOTAL + 1, np.uint16)  # the vector loop reads two at a time
        self._at = {
            name: array.ctypes.data
            for name, array in vars(self).items()
            if isinstance(array, np.ndarray)
        }

    def plan(self, data: Elements, *, sampled: bool) -> Plan:
        """Count the values of `data` and choose those that get an entry, in `values`.

        sampled: look at about a quarter of the elements.
        """
        at, size = self._at, 1 << (8 * data.itemsize)
        count = _functions[f"count{8 * data.itemsize}"]
        total = count(address_of(data), len(data), sampled, at["_counts"], size)
        self._totals[:] = 0, -1, sampled, 0
        _functions["plan"](
            at["_counts"], size, total, _COSTS_AT, at["values"], at["frequencies"], at["_totals"]
        )
        symbols, place, bits, others = self._totals.tolist()
        return Plan(symbols, place, bits, others, total)

    def write_table(self, symbols: int, out: Bytes) -> int | None:
        """Write the last plan's table to `out`; returns its bytes, None if there is no room."""
        at = self._at
        used = _functions["write_table"](
            at["values"], at["frequencies"], symbols, address_of(out), len(out)
        )
        return None if used < 0 else int(used)

    def split_bits(self, total: int) -> float:
        """Bits that the 16-bit values last counted would take as two planes of bytes (see `split`)."""
        rotated = self._counts[: 1 << 16].reshape(2, 1 << 15).T
        counts = rotated.reshape(256, 256)
        planes = np.concatenate((counts.sum(axis=0), counts.sum(axis=1)))
        return float(planes @ np.log2(total / np.maximum(planes, 1)))

    def encode(self, data: Elements, plan: Plan, lanes: int, words: Bytes) -> tuple[int, int] | None:
        """Encode `data`; returns (words written, escapes written), or None if `words` is too small.

        Leaves the final states in `states`, and in `escapes` what `data` has that the table has not.
        """
        at, bits, end, room = self._at, 8 * data.itemsize, len(data), len(words) // 2
        _functions["encoding_table"](
            at["values"], at["frequencies"], plan.symbols, plan.place, at["_entries"], 1 << bits
        )
        self.states[:] = LOWEST
        self._totals[:] = 0
        data_at, words_at, start = address_of(data), address_of(words), 0
        # Single bytes never escape, but may be escaped elements themselves, which must stay.
        escapes_at = at["escapes" if bits == 16 else "_no_escapes"]
        if self._vectors and lanes == LANES:
            start = end // LANES * LANES
            if not _functions[f"encode{bits}_wide"](
                data_at, start, at["states"], at["_entries"], words_at, room, escapes_at, plan.place,
                at["_totals"],
            ):  # fmt: skip
                return None
        if not _functions[f"encode{bits}"](
            data_at, start, end, at["states"], lanes, at["_entries"], words_at, room, escapes_at,
            plan.place, at["_totals"],
        ):  # fmt: skip
            return None
        return int(self._totals[0]), int(self._totals[1])

    def read_table(self, data: Bytes, symbols: int, bits: int) -> int | None:
        """Make the decoding table from a payload's bytes; how many they were, None for damage.

        symbols: at most `TOTAL`. bits: of a value.
        """
        at = self._at
        used = _functions["decoding_table"](
            address_of(data), len(data), symbols, bits, at["_slots"], at["_slot_values"], at["_symbols"]
        )
        return None if used < 0 else int(used)

    def decode(self, words: Bytes, count: int, lanes: int, out: Elements) -> bool:
        """Fill `out` from the first `count` words; whether they were exactly as many as needed.

        Begins with `states` and leaves them as they are then. `words` has 4 bytes more per lane than
        its words take.
        """
        at, bits, end = self._at, 8 * out.itemsize, len(out)
        tables = (at["_slots"], at["_slot_values"])
        plain = _functions[f"decode{bits}"]
        words_at, out_at, states = address_of(words), address_of(out), at["states"]
        self._totals[0] = count
        if self._vectors and lanes == LANES:
            tail = end // LANES * LANES
            if not plain(words_at, states, lanes, *tables, out_at, tail, end, at["_totals"]):
                return False
            end = _functions[f"decode{bits}_wide"](
                words_at, states, *tables, out_at, tail, at["_totals"]
            )
        done = plain(words_at, states, lanes, *tables, out_at, 0, end, at["_totals"])
        return bool(done) and not self._totals[0]

    def fill_in(self, out: U16Array, place: int) -> int:
        """Replace each element that equals `place` by the next of `escapes`; how many there were."""
        out_at, escapes_at, found, start = address_of(out), self._at["escapes"], 0, 0
        if self._vectors:
            start = len(out) // VECTOR * VECTOR
            found = _functions["fill_in_wide"](out_at, start, place, escapes_at)
        found += _functions["fill_in"](out_at, start, len(out), place, escapes_at + 2 * found)
        return int(found)
