"""The inner loops on bfloat16, as functions of arrays. Each releases the GIL while it runs.

Arrays are flat and contiguous; bfloat16 values are their bits, as uint16. The loops themselves are in
`kernel_source`, their machine code comes from `native`.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.tensors.native import Functions

U16Array = NDArray[np.uint16]
U32Array = NDArray[np.uint32]

_POINTER, _COUNT = ctypes.c_void_p, ctypes.c_int64
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "subtract_bf16": (None, (*[_POINTER] * 3, _COUNT, *[_POINTER] * 6)),
    "add_bf16": (None, (_POINTER, _POINTER, ctypes.c_float, _POINTER, _COUNT)),
    "add_bf16_at": (
        None,
        (_POINTER, _POINTER, ctypes.c_float, _POINTER, _POINTER, _COUNT, _POINTER, _COUNT),
    ),
    "has_all_bits": (ctypes.c_int64, (_POINTER, ctypes.c_uint16, _COUNT)),
    "norms_bf16": (None, (_POINTER, _POINTER, _COUNT, _POINTER, _POINTER)),
    "widen_bf16": (None, (_POINTER, _POINTER, _COUNT)),
    "narrow_bf16": (None, (_POINTER, _POINTER, _COUNT)),
    "round_to_odd": (None, (_POINTER, _POINTER, _COUNT)),
}
SCRATCH_ELEMENTS = 3 * 4096  # that `subtract_bf16` needs: three of `kernel_source.SPAN`

NORM_SCRATCH = 3 * 512  # floats that `norms_bf16` needs: three of `kernel_source.LANES`


_functions = Functions(_SIGNATURES)


def subtract_bf16(
    post: U16Array,
    base: U16Array,
    out: U16Array,
    rest_at: U32Array,
    rest: NDArray[np.int32],
    lost_at: U32Array,
    lost: U16Array,
) -> tuple[int, int, int]:
    """out = post - base in bfloat16, and what rounding lost; all arrays of post's length or longer.

    rest_at, rest: where, and by how much, the bits of the exact float32 difference exceed those of
    `out`. lost_at, lost: where base plus the exact difference, rounded, is not post; post's own bits.
    Returns (changed elements, remainders, exceptions).
    """
    scratch = np.empty(SCRATCH_ELEMENTS, np.uint16)
    totals = np.zeros(3, np.int64)
    _functions["subtract_bf16"](
        _at(post), _at(base), _at(out), len(post), _at(scratch),
        _at(rest_at), _at(rest), _at(lost_at), _at(lost), _at(totals),
    )  # fmt: skip
    changed, rests, losses = totals.tolist()
    return changed, rests, losses


def add_bf16(base: U16Array, stored: U16Array, scale: float, out: U16Array) -> None:
    """out = base + scale * stored, in float32, rounded once."""
    _functions["add_bf16"](_at(base), _at(stored), scale, _at(out), len(base))


def add_bf16_at(
    base: U16Array,
    stored: U16Array,
    scale: float,
    rest_at: U32Array,
    rest: NDArray[np.int32],
    out: U16Array,
) -> None:
    """`add_bf16` again at the positions `rest_at`, where `stored` needs its remainders `rest`."""
    _functions["add_bf16_at"](
        _at(base), _at(stored), scale, _at(rest_at), _at(rest), len(rest_at), _at(out), len(base)
    )


def has_all_bits(source: U16Array, mask: int) -> bool:
    """Whether any element has all bits of `mask` set: with the exponent's, whether any is not finite."""
    return bool(_functions["has_all_bits"](_at(source), mask, len(source)))


def norms_bf16(post: U16Array, base: U16Array, out: NDArray[np.float64]) -> None:
    """out = sum((post - base)^2), sum(base^2), max|post - base|; 512 sums side by side, in float32."""
    scratch = np.empty(NORM_SCRATCH, np.float32)
    _functions["norms_bf16"](_at(post), _at(base), len(post), _at(scratch), _at(out))


def widen_bf16(source: U16Array, out: NDArray[np.float32]) -> None:
    """out = the values of bfloat16 bits."""
    _functions["widen_bf16"](_at(source), _at(out), len(source))


def narrow_bf16(source: NDArray[np.float32], out: U16Array) -> None:
    """out = the bfloat16 bits nearest to the values, ties to even; a NaN stays one."""
    _functions["narrow_bf16"](_at(source), _at(out), len(source))


def round_to_odd(source: NDArray[np.float64], out: NDArray[np.float32]) -> None:
    """out = float64 values truncated, with the last bit set where anything was cut off.

    A second rounding to a narrower format is then as good as one rounding from float64 (Boldo and
    Melquiond, "Emulation of FMA and correctly rounded sums", IEEE TC 2008).
    """
    _functions["round_to_odd"](_at(source), _at(out), len(source))


def _at(array: NDArray[Any]) -> int:
    """The address of a flat array's first element."""
    assert array.flags.c_contiguous, "a kernel was given an array with gaps"
    return array.ctypes.data
