"""The halves of wide elements apart: the lower bytes of all, then the upper bytes of all.

Exponents and signs are then among themselves, and can be coded; mantissas can't, and cost nothing to
leave. For elements of 2, 4 or 8 bytes:

    u32     how many bytes the lower halves take
    ...     the lower halves, an encoded chunk of elements half as wide
    ...     the upper halves, likewise, to the end

So elements of 8 bytes may split three times, down to single bytes. Elements of 2 bytes are rotated left
by one bit before they are split, so that the sign of a bfloat16 goes with the mantissa and the exponent
fills the upper byte.
"""

from __future__ import annotations

import numpy as np

from pipeline.codecs.base import Damage, Nested
from pipeline.codecs.tables import MAX_ELEMENTS
from pipeline.tensors.dtypes import Bytes

_SIZE_BYTES = 4


class Split:
    """Both halves, each encoded as suits it."""

    code = 3

    def __init__(self) -> None:
        # For each width, because the halves of wide elements split again. Pages are used when written.
        self._halves = {width: np.empty(MAX_ELEMENTS * width // 2, np.uint8) for width in (2, 4, 8)}
        self._rotations = [np.empty(2 * MAX_ELEMENTS, np.uint8) for _ in range(2)]

    def encode(self, data: Bytes, itemsize: int, out: Bytes, nested: Nested) -> int | None:
        if itemsize not in (2, 4, 8):
            return None
        half, narrow = self._half(data, itemsize)
        if itemsize == 2:
            data = self._rotated(data, 1)
        at = _SIZE_BYTES
        for which in range(2):
            half.view(narrow)[:] = data.view(narrow)[which::2]
            if at >= len(out) or (size := nested.encode_part(half, itemsize // 2, out[at:])) is None:
                return None
            at += size
            if which == 0:
                out[:_SIZE_BYTES] = np.frombuffer(size.to_bytes(_SIZE_BYTES, "little"), np.uint8)
        return at

    def decode(self, payload: Bytes, itemsize: int, out: Bytes, nested: Nested) -> None:
        if itemsize not in (2, 4, 8):
            raise Damage(f"elements of {itemsize} bytes can't be split")
        if len(payload) < _SIZE_BYTES:
            raise Damage("a split chunk ends before its first half begins")
        middle = _SIZE_BYTES + int.from_bytes(payload[:_SIZE_BYTES].tobytes(), "little")
        if middle > len(payload):
            raise Damage("the lower halves are said to be longer than the chunk")
        half, narrow = self._half(out, itemsize)
        for which, part in enumerate((payload[_SIZE_BYTES:middle], payload[middle:])):
            nested.decode_part(part, itemsize // 2, half)
            out.view(narrow)[which::2] = half.view(narrow)
        if itemsize == 2:
            out[:] = self._rotated(out, 15)

    def _rotated(self, data: Bytes, left: int) -> Bytes:
        """Elements of 2 bytes, with the upper `left` bits below the others."""
        rotated, upper = (buffer[: len(data)].view("<u2") for buffer in self._rotations)
        np.left_shift(data.view("<u2"), left, out=rotated)
        np.right_shift(data.view("<u2"), 16 - left, out=upper)
        rotated |= upper
        return rotated.view(np.uint8)

    def _half(self, whole: Bytes, itemsize: int) -> tuple[Bytes, np.dtype[np.unsignedinteger]]:
        """Room for the halves of all elements, one at a time, and their type."""
        return self._halves[itemsize][: len(whole) // 2], np.dtype(f"<u{itemsize // 2}")
