"""What 8-bit floats mean, and which scale belongs to which of them.

Sources: OCP 8-bit Floating Point Specification (OFP8) 1.0, for E4M3 (no infinities, one NaN of each
sign) and E5M2 (as IEEE 754 would have it); OCP Microscaling Formats 1.0, for the scales E8M0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.tensors.dtypes import BF16, BY_NAME, F16, F32, Bytes, DType

E4M3, E5M2, E8M0 = BY_NAME["F8_E4M3"], BY_NAME["F8_E5M2"], BY_NAME["F8_E8M0"]
CODES = (E4M3, E5M2)
SCALES = (F32, BF16, F16, E8M0)

Floats = NDArray[np.float32]


def values_of(dtype: DType) -> Floats:
    """What each of the 256 codes of an 8-bit float is, exactly, as float32.

    dtype: one of `CODES`, or E8M0.
    """
    codes = np.arange(256)
    with np.errstate(over="ignore"):
        if dtype == E8M0:
            return np.where(codes == 255, np.nan, np.ldexp(1.0, codes - 127)).astype(np.float32)
        bits, bias = (3, 7) if dtype == E4M3 else (2, 15)
        exponent, fraction = (codes & 0x7F) >> bits, codes & ((1 << bits) - 1)
        normal = np.ldexp((1 << bits) + fraction, exponent - bias - bits)
        size = np.where(exponent > 0, normal, np.ldexp(fraction.astype(np.float64), 1 - bias - bits))
    if dtype == E4M3:
        size[(codes & 0x7F) == 0x7F] = np.nan
    else:
        size[exponent == 31] = np.where(fraction[exponent == 31] > 0, np.nan, np.inf)
    return np.where(codes & 0x80, -size, size).astype(np.float32)


def widen_scales(data: Bytes, dtype: DType) -> Floats:
    """Scales as float32, exactly. dtype: one of `SCALES`."""
    if dtype == E8M0:
        return values_of(E8M0)[data]
    if dtype == BF16:
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return data.view("<f2" if dtype == F16 else "<f4").astype(np.float32)


def block_of(
    weight: Sequence[int], scales: Sequence[int], configured: tuple[int, int] | None
) -> tuple[int, int] | None:
    """Rows and columns of a weight that share a scale; None if the shapes do not fit together.

    configured: the block that the config tells; its last one in a row or a column may be cut off, as
    DeepSeek-V3 has them. Otherwise the scales divide the weight evenly: one for all, one for each row,
    or, where the config tells no block, blocks of some other size.
    """
    if math.prod(scales) == 1 and len(scales) < 2:
        scales = (1,) * max(len(weight), 2)
    weight = (1,) * (2 - len(weight)) + tuple(weight)
    if len(scales) != len(weight) or tuple(scales[:-2]) != weight[:-2]:
        same_for_all = len(scales) == 2 and math.prod(scales) == 1
        if not same_for_all:
            return None
        return (weight[-2], weight[-1]) if len(weight) == 2 else None
    rows, columns, down, across = *weight[-2:], *scales[-2:]
    if configured is not None:
        height, width = configured
        if (down, across) == (-(-rows // height), -(-columns // width)):
            return max(1, min(height, rows)), max(1, min(width, columns))
    if min(rows, columns, down, across) < 1 or rows % down or columns % across:
        return None
    block = (rows // down, columns // across)
    return block if configured is None or block in {(rows, columns), (1, columns)} else None


def multiply(codes: Bytes, table: Floats, scales: NDArray[Any], width: int) -> Floats:
    """Rows of codes times their scales, each rounded once to float32.

    codes: (rows, columns). table: see `values_of`. scales: (rows, blocks), one for `width` columns.
    """
    made: Floats = table[codes]
    with np.errstate(all="ignore"):  # infinities and NaN are data here
        made *= np.repeat(scales, width, axis=1)[:, : codes.shape[1]]
    return made
