"""Entropy coding of elements of 1 or 2 bytes: interleaved rANS over the commonest values.

Sources: J. Duda, "Asymmetric numeral systems: entropy coding combining speed of Huffman coding with
compression rate of arithmetic coding", arXiv:1311.2540; F. Giesen, "Interleaved entropy coders",
arXiv:1402.3392. Layout, after the method's code:

    u8      L, lanes, 1 to 64
    u16     S, entries of the table, 1 to 8192
    u32     E, elements that escape; 0 for elements of 1 byte
    u16     the placeholder, a value that means "escaped" if E > 0
    u32     W, words
    S x     values, each as wide as an element, strictly ascending
    S x     frequencies f, 1 to 8191, adding up to 8192 = 2^13: one byte if f < 128, otherwise two, the
            first with the low 7 bits and 128 added, the second with the rest
    W x u16 words
    L x u32 final states, each from 2^15 to 2^31 - 1
    ...     if E > 0: the escaped elements in their order, an encoded chunk of E elements of 2 bytes to
            the end, in which elements of 2 bytes are raw, constant or split; otherwise nothing

Each entry owns as many of 8192 slots as its frequency says, in order: the first those from 0 on. Elements
are decoded from the last (i = n - 1) to the first, and the words are a stack, the last on top:

    x = states[i % L]
    slot = x & 8191;  k = the entry that owns it
    out[i] = values[k]
    x = f[k] * (x >> 13) + slot - (the first slot of k)
    if x < 2^15:  x = x << 16 | words.pop()
    states[i % L] = x

At the end no word is left and all states are 2^15. Then, if E > 0, elements that equal the placeholder,
of which there are E, are replaced, from the first to the last, by the escaped elements.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.codecs import kernels
from pipeline.codecs.base import MAX_ELEMENTS, Damage, Nested, Scratch
from pipeline.codecs.tables import LANES, LOWEST, MAX_SYMBOLS, TOTAL
from pipeline.tensors.dtypes import Bytes

_HEADER = struct.Struct("<BHIHI")
_STATE_BYTES = 4
_FEW_LANES = 4  # for chunks of so few elements that 64 states would weigh
_MANY_ELEMENTS = 1 << 14
_SAMPLED_ELEMENTS = 1 << 18  # from here on a sample of the values says enough
_WORTH_A_TABLE = 1 << 12  # elements of 2 bytes below which tables of 65,536 take longer than they save
_ESCAPE_BITS = 14  # that an escaped element takes, about, beside its placeholder
_POOR_BITS = 8  # an element: from here on two planes of bytes may be better


@dataclass(frozen=True, slots=True)
class _Plan:
    """The table that an encoder would use. place: the placeholder's value, -1 for none."""

    symbols: int
    place: int


class Rans:
    """Entropy coding. vectors: whether to use the loops for AVX-512 where there are any."""

    code = 2

    def __init__(self, scratch: Scratch, *, vectors: bool = True) -> None:
        self._scratch = scratch
        self._vectors = vectors
        self._chosen = np.empty(MAX_SYMBOLS + 1, np.uint16)
        self._frequencies = np.empty(MAX_SYMBOLS + 1, np.uint16)
        self._no_escapes = np.empty(kernels.VECTOR, np.uint16)
        self._states = np.empty(LANES, np.uint32)
        self._slots = np.empty(TOTAL, np.uint32)
        self._values = np.zeros(TOTAL + 1, np.uint16)  # the vector loop reads two at a time

    def encode(self, data: Bytes, itemsize: int, out: Bytes, nested: Nested) -> int | None:
        if itemsize > 2:
            return None
        elements = data.view(f"<u{itemsize}")
        plan = self._plan(elements, len(out))
        if plan is None:
            return None
        values, frequencies = self._chosen[: plan.symbols], self._frequencies[: plan.symbols]
        head = values.astype(f"<u{itemsize}").tobytes() + _pack_frequencies(frequencies)
        begin = _HEADER.size + len(head)
        lanes = LANES if len(elements) >= _MANY_ELEMENTS else _FEW_LANES
        room = len(out) - begin - _STATE_BYTES * lanes
        if room <= 0:
            return None
        table = self._entries(itemsize)
        kernels.encoding_table(values, frequencies, plan.symbols, plan.place, table)
        # Single bytes never escape, but may be escaped elements themselves, which must stay.
        escapes = self._escapes(len(elements)) if itemsize == 2 else self._no_escapes
        states = self._states[:lanes]
        states[:] = LOWEST
        done = kernels.encode(
            elements, states, table, plan.place, out[begin : begin + room], escapes, self._vectors
        )
        if done is None:
            return None
        words, escaped = done
        _HEADER.pack_into(out.data, 0, lanes, plan.symbols, escaped, max(plan.place, 0), words)
        out[_HEADER.size : begin] = np.frombuffer(head, np.uint8)
        at = begin + 2 * words
        out[at : at + states.nbytes] = states.view(np.uint8)
        at += states.nbytes
        if escaped:
            part = escapes[:escaped].view(np.uint8)
            size = nested.encode_part(part, 2, out[at:], coded=False)
            return None if size is None else at + size
        return at

    def decode(self, payload: Bytes, itemsize: int, out: Bytes, nested: Nested) -> None:
        if itemsize > 2:
            raise Damage(f"elements of {itemsize} bytes can't be entropy-coded")
        elements = out.view(f"<u{itemsize}")
        if len(payload) < _HEADER.size:
            raise Damage("an entropy-coded chunk ends within its header")
        lanes, symbols, escaped, place, words = _HEADER.unpack_from(payload.data)
        if not 1 <= lanes <= LANES or symbols > TOTAL or escaped > (itemsize - 1) * len(elements):
            raise Damage("an entropy-coded chunk has a header that means nothing")
        table = payload[_HEADER.size :]
        used = kernels.decoding_table(table, symbols, itemsize, self._slots, self._values)
        if used is None:
            raise Damage("the frequencies of an entropy-coded chunk do not fit together")
        body = table[used:]
        states = self._states[:lanes]
        after = 2 * words + states.nbytes
        if after > len(body) or (not escaped and after < len(body)):
            raise Damage(f"an entropy-coded chunk has {len(body)} bytes where {after} belong")
        states.view(np.uint8)[:] = body[2 * words : after]
        if states.min() < LOWEST or states.max() >> 31:
            raise Damage("a state of an entropy-coded chunk is out of range")
        whole = kernels.decode(
            body, words, states, self._slots, self._values, elements, self._vectors
        )
        if not whole or (states != LOWEST).any():
            raise Damage("the words of an entropy-coded chunk do not come out even")
        if escaped:
            escapes = self._escapes(len(elements))
            nested.decode_part(body[after:], 2, escapes[:escaped].view(np.uint8), coded=False)
            if kernels.fill_in(elements, place, escapes, self._vectors) != escaped:
                raise Damage("the escapes of an entropy-coded chunk are not as many as it says")

    def _plan(self, elements: NDArray[np.unsignedinteger], room: int) -> _Plan | None:
        """The table for `elements`, in `_chosen` and `_frequencies`, if it promises to pay."""
        narrow = elements.itemsize == 1
        if not narrow and len(elements) < _WORTH_A_TABLE:
            return None
        sampled = not narrow and len(elements) >= _SAMPLED_ELEMENTS
        size = 256 if narrow else 1 << 16
        counts = self._scratch.buffer(f"counts of {size}", 8 * size, 8 * size).view(np.uint32)
        total = kernels.count(elements, sampled, counts)
        symbols, place, bits, others = kernels.plan(
            counts, total, sampled, self._chosen, self._frequencies
        )
        bits += others * _ESCAPE_BITS
        if not symbols or bits * len(elements) > 8 * room * total:
            return None
        if not narrow and bits > _POOR_BITS * total and bits > kernels.split_bits(counts, total):
            return None
        return _Plan(symbols, place)

    def _entries(self, itemsize: int) -> NDArray[np.uint64]:
        nbytes = 8 << (8 * itemsize)
        return self._scratch.buffer(f"entries of {itemsize}", nbytes, nbytes).view(np.uint64)

    def _escapes(self, elements: int) -> NDArray[np.uint16]:
        """Room for as many escapes as elements, and for what the vector loops touch behind them."""
        limit = 2 * (MAX_ELEMENTS + kernels.VECTOR)
        nbytes = 2 * (elements + kernels.VECTOR)
        return self._scratch.buffer("escapes", nbytes, limit).view(np.uint16)


def _pack_frequencies(frequencies: NDArray[np.uint16]) -> bytes:
    """One byte each below 128, otherwise two."""
    pairs = np.empty((len(frequencies), 2), np.uint8)
    long = frequencies >= 128
    pairs[:, 0] = np.where(long, frequencies & 127 | 128, frequencies)
    pairs[:, 1] = frequencies >> 7
    kept = np.ones_like(pairs, np.bool_)
    kept[:, 1] = long
    return pairs[kept].tobytes()
