"""What a method of encoding is, and the sign of damage."""

from __future__ import annotations

from typing import Protocol

from pipeline.tensors.dtypes import Bytes


class Damage(Exception):
    """An encoded chunk that no encoder can have written: one sentence on why."""


class Nested(Protocol):
    """How a method has parts of its own payload encoded and decoded.

    coded: whether the method of entropy coding may be used on elements of 2 bytes. A method may ask for
    parts of the same width only without it, so that nesting ends.
    """

    def encode_part(self, data: Bytes, itemsize: int, out: Bytes, *, coded: bool = True) -> int | None:
        """The number of bytes that `data` took in `out`, or None if it does not fit."""

    def decode_part(self, payload: Bytes, itemsize: int, out: Bytes, *, coded: bool = True) -> None:
        """Fill `out`, exactly, from all of `payload`. Raises Damage."""


class Method(Protocol):
    """One way to encode a chunk. An instance belongs to one thread: it reuses its scratch space.

    Payloads are without the method's code. `data` and `out` hold elements of `itemsize` bytes, at least
    one and at most `tables.MAX_ELEMENTS`.
    """

    code: int

    def encode(self, data: Bytes, itemsize: int, out: Bytes, nested: Nested) -> int | None:
        """The number of bytes written to `out`; None if they do not fit or the method does not."""

    def decode(self, payload: Bytes, itemsize: int, out: Bytes, nested: Nested) -> None:
        """Fill `out`, exactly, from all of `payload`, whatever its bytes are. Raises Damage."""
