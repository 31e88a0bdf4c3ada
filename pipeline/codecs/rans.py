"""Entropy coding of elements of 1 or 2 bytes: interleaved rANS over the commonest values.

Sources: J. Duda, "Asymmetric numeral systems: entropy coding combining speed of Huffman coding with
compression rate of arithmetic coding", arXiv:1311.2540; F. Giesen, "Interleaved entropy coders",
arXiv:1402.3392. Layout, after the method's code:

    u8      L, lanes, 1 to 64
    u16     S, entries of the table, 1 to 8192
    u32     E, elements that escape; 0 for elements of 1 byte
    u16     the placeholder, a value that means "escaped" if E > 0
    u32     W, words
    S x     values, strictly ascending: the first, then each less the one before and 1
    S x     frequencies f, 1 to 8191, adding up to 8192 = 2^13
    W x u16 words
    L x u32 final states, each from 2^15 to 2^31 - 1
    ...     if E > 0: the escaped elements in their order, an encoded chunk of E elements of 2 bytes to
            the end, in which elements of 2 bytes are raw, constant or split; otherwise nothing

Values and frequencies are written 7 bits to a byte, the lowest first, each byte but a number's last
with 128 added; at most three bytes. Each entry owns as many of 8192 slots as its frequency says, in
order: the first those from 0 on. Elements are decoded from the last (i = n - 1) to the first, and the
words are a stack, the last on top:

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

import numpy as np

from pipeline.codecs.base import Damage, Nested
from pipeline.codecs.kernels import Elements, Plan, Workspace
from pipeline.codecs.tables import LANES, LOWEST, TOTAL
from pipeline.tensors.dtypes import Bytes

_HEADER = struct.Struct("<BHIHI")
_FEW_LANES = 4  # for chunks of so few elements that 64 states would weigh
_MANY_ELEMENTS = 1 << 14
_SAMPLED_ELEMENTS = 1 << 18  # from here on a sample of the values says enough
_WORTH_COUNTING = 64  # single bytes: fewer save less than the table and the states take
_WORTH_A_LARGE_TABLE = 1 << 12  # elements of 2 bytes: fewer save less time than 65,536 counts take
_ESCAPE_BITS = 14  # that an escaped element takes, about, beside its placeholder
_MANY_OTHERS = 4  # of so many elements one escapes: then two planes of bytes are better
_ENTRY_BITS = 20  # that an entry of the table takes, about
_POOR_BITS = 8  # an element: from here on two planes of bytes may be better


class Rans:
    """Entropy coding. vectors: whether to use the loops for AVX-512 where there are any."""

    code = 2

    def __init__(self, *, vectors: bool = True) -> None:
        self._work = Workspace(vectors=vectors)

    def encode(self, data: Bytes, itemsize: int, out: Bytes, nested: Nested) -> int | None:
        if itemsize > 2:
            return None
        work, elements = self._work, data.view(f"<u{itemsize}")
        plan = self._plan(elements, len(out))
        if plan is None:
            return None
        table = work.write_table(plan.symbols, out[_HEADER.size :])
        if table is None:
            return None
        begin = _HEADER.size + table
        lanes = LANES if len(elements) >= _MANY_ELEMENTS else _FEW_LANES
        states = work.states[:lanes].view(np.uint8)
        room = len(out) - begin - len(states)
        done = work.encode(elements, plan, lanes, out[begin : begin + room]) if room > 0 else None
        if done is None:
            return None
        words, escaped = done
        _HEADER.pack_into(out.data, 0, lanes, plan.symbols, escaped, max(plan.place, 0), words)
        end = begin + 2 * words + len(states)
        out[end - len(states) : end] = states
        if not escaped:
            return end
        part = work.escapes[:escaped].view(np.uint8)
        size = nested.encode_part(part, 2, out[end:], coded=False)
        return None if size is None else end + size

    def decode(self, payload: Bytes, itemsize: int, out: Bytes, nested: Nested) -> None:
        if itemsize > 2:
            raise Damage(f"elements of {itemsize} bytes can't be entropy-coded")
        work, elements = self._work, out.view(f"<u{itemsize}")
        if len(payload) < _HEADER.size:
            raise Damage("an entropy-coded chunk ends within its header")
        lanes, symbols, escaped, place, words = _HEADER.unpack_from(payload.data)
        if not 1 <= lanes <= LANES or symbols > TOTAL or escaped > (itemsize - 1) * len(elements):
            raise Damage("an entropy-coded chunk has a header that means nothing")
        used = work.read_table(payload[_HEADER.size :], symbols, 8 * itemsize)
        if used is None:
            raise Damage("the frequencies of an entropy-coded chunk do not fit together")
        body = payload[_HEADER.size + used :]
        states = work.states[:lanes]
        end = 2 * words + states.nbytes
        if end > len(body) or (not escaped and end < len(body)):
            raise Damage(f"an entropy-coded chunk has {len(body)} bytes where {end} belong")
        states.view(np.uint8)[:] = body[2 * words : end]
        if states.min() < LOWEST or states.max() >> 31:
            raise Damage("a state of an entropy-coded chunk is out of range")
        if not work.decode(body, words, lanes, elements) or (states != LOWEST).any():
            raise Damage("the words of an entropy-coded chunk do not come out even")
        if escaped:
            part = work.escapes[:escaped].view(np.uint8)
            nested.decode_part(body[end:], 2, part, coded=False)
            if work.fill_in(elements, place) != escaped:
                raise Damage("the escapes of an entropy-coded chunk are not as many as it says")

    def _plan(self, elements: Elements, room: int) -> Plan | None:
        """The table for `elements`, if it promises to pay within `room` bytes."""
        count, narrow = len(elements), elements.itemsize == 1
        if count < (_WORTH_COUNTING if narrow else _WORTH_A_LARGE_TABLE):
            return None
        plan = self._work.plan(elements, sampled=not narrow and count >= _SAMPLED_ELEMENTS)
        if not plan.symbols or plan.others * _MANY_OTHERS > plan.total:
            return None
        scale = count / plan.total
        bits = (plan.bits + plan.others * _ESCAPE_BITS) * scale + plan.symbols * _ENTRY_BITS
        if bits > 8 * room:
            return None
        if not narrow and bits > _POOR_BITS * count and bits > self._work.split_bits(plan.total) * scale:
            return None
        return plan
