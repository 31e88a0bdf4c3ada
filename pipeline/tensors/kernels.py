"""The inner loops on bfloat16, as functions of arrays. Each releases the GIL while it runs.

Arrays are flat and contiguous; bfloat16 values are their bits, as uint16. The loops themselves are in
`kernel_source`, their machine code comes from `native`.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.tensors.native import Functions, address_of

U16Array = NDArray[np.uint16]
U32Array = NDArray[np.uint32]

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
_ADDITION = (_POINTER, _POINTER, ctypes.c_float, _POINTER, _COUNT)
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "subtract_bf16": (None, (*[_POINTER] * 3, _COUNT, *[_POINTER] * 7)),
    "subtract_wide_bf16": (None, (*[_POINTER] * 3, _COUNT, *[_POINTER] * 3)),
    "add_bf16": (_COUNT, (*_ADDITION, _POINTER, _POINTER, _COUNT)),
    "add_wide_bf16": (_COUNT, _ADDITION),
    "has_all_bits": (ctypes.c_int64, (_POINTER, ctypes.c_uint16, _COUNT)),
    "norms_bf16": (None, (_POINTER, _POINTER, _COUNT, _POINTER, _POINTER)),
    "widen_bf16": (None, (_POINTER, _POINTER, _COUNT)),
    "narrow_bf16": (None, (_POINTER, _POINTER, _COUNT)),
    "round_to_odd": (None, (_POINTER, _POINTER, _COUNT)),
}
_ROOM_BYTES = 4 * (3 * 528 + 128)  # `kernel_source.ROOM` floats
_LINE = 64  # bytes of a cache line: a vector that lies across two takes twice as long


class _Room(threading.local):
    """A thread's room for what kernels keep while they run. at: its address."""

    def __init__(self) -> None:
        self._array = np.empty(_ROOM_BYTES + _LINE, np.uint8)
        start = self._array.ctypes.data
        self.at = start + -start % _LINE


_functions = Functions(_SIGNATURES)
_room = _Room()


class Lost:
    """Room for what `subtract_bf16` finds, for up to `count` elements.

    rest_at, rest: where, and by how much, the bits of the exact float32 difference exceed those that are
    stored. lost_at, lost: where base plus the exact difference, rounded, is not post; post's own bits.
    squares: as `norms_bf16` has them.
    """

    def __init__(self, count: int) -> None:
        self.rest_at = np.empty(count, np.uint32)
        self.rest = np.empty(count, np.int32)
        self.lost_at = np.empty(count, np.uint32)
        self.lost = np.empty(count, np.uint16)
        self.totals = np.empty(3, np.int64)
        self.squares = np.empty(3, np.float64)
        arrays = (self.rest_at, self.rest, self.lost_at, self.lost, self.totals, self.squares)
        self.places = tuple(address_of(array) for array in arrays)


def subtract_bf16(post: U16Array, base: U16Array, out: U16Array, found: Lost) -> tuple[int, int, int]:
    """out = post - base in bfloat16, and what rounding lost; base and out have post's length.

    Returns (changed elements, remainders, exceptions), which lie at the beginning of `found`'s arrays.
    """
    _functions["subtract_bf16"](
        address_of(post), address_of(base), address_of(out), len(post), _room.at, *found.places
    )
    changed, rests, losses = found.totals.tolist()
    return changed, rests, losses


def subtract_wide_bf16(
    post: U16Array, base: U16Array, out: NDArray[np.float32], found: Lost
) -> tuple[int, int]:
    """out = post - base in float32, which is exact as far as float32 is; all have post's length.

    Returns (changed elements, exceptions), which lie at the beginning of `found`'s arrays. There are no
    remainders.
    """
    _, _, lost_at, lost, totals, _ = found.places
    _functions["subtract_wide_bf16"](
        address_of(post), address_of(base), address_of(out), len(post), lost_at, lost, totals
    )
    changed, losses, _ = found.totals.tolist()
    return changed, losses


def add_bf16(
    base: U16Array,
    stored: U16Array,
    scale: float,
    out: U16Array,
    rest_at: U32Array,
    rest: NDArray[np.int32],
) -> bool:
    """out = base + scale * stored, in float32, rounded once; returns whether all of it is finite.

    rest_at, rest: where the bits of a stored value, as float32, lack a remainder, and which; in order.
    Where it says that it is not, it may be all the same: it has looked at results without remainders.
    """
    rests = len(rest_at)
    lost = (address_of(rest_at), address_of(rest), rests) if rests else (None, None, 0)
    strange = _functions["add_bf16"](
        address_of(base), address_of(stored), scale, address_of(out), len(base), *lost
    )
    return not strange


def add_wide_bf16(base: U16Array, delta: NDArray[np.float32], scale: float, out: U16Array) -> bool:
    """`add_bf16` for a delta in float32, which lacks nothing."""
    strange = _functions["add_wide_bf16"](
        address_of(base), address_of(delta), scale, address_of(out), len(base)
    )
    return not strange


def has_all_bits(source: U16Array, mask: int) -> bool:
    """Whether any element has all bits of `mask` set: with the exponent's, whether any is not finite."""
    return bool(_functions["has_all_bits"](address_of(source), mask, len(source)))


def norms_bf16(post: U16Array, base: U16Array, out: NDArray[np.float64]) -> None:
    """out = sum((post - base)^2), sum(base^2), max|post - base|; 512 sums side by side, in float32."""
    _functions["norms_bf16"](address_of(post), address_of(base), len(post), _room.at, address_of(out))


def widen_bf16(source: U16Array, out: NDArray[np.float32]) -> None:
    """out = the values of bfloat16 bits."""
    _functions["widen_bf16"](address_of(source), address_of(out), len(source))


def narrow_bf16(source: NDArray[np.float32], out: U16Array) -> None:
    """out = the bfloat16 bits nearest to the values, ties to even; a NaN stays one."""
    _functions["narrow_bf16"](address_of(source), address_of(out), len(source))


def round_to_odd(source: NDArray[np.float64], out: NDArray[np.float32]) -> None:
    """out = float64 values truncated, with the last bit set where anything was cut off.

    A second rounding to a narrower format is then as good as one rounding from float64 (Boldo and
    Melquiond, "Emulation of FMA and correctly rounded sums", IEEE TC 2008).
    """
    _functions["round_to_odd"](address_of(source), address_of(out), len(source))
