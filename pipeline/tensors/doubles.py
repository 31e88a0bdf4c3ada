"""Any float format to float64 and back: where a sum of products is to be rounded once, at its end."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipeline.tensors import kernels
from pipeline.tensors.dtypes import BF16, NUMPY_FLOATS, Bytes, DType

Doubles = NDArray[np.float64]


def widen(data: Bytes, dtype: DType) -> Doubles:
    """The values of `data` as float64, exactly."""
    if dtype != BF16:
        return data.view(NUMPY_FLOATS[dtype]).astype(np.float64)
    bits = data.view(BF16.bits).astype(np.uint32)
    bits <<= 16
    return bits.view(np.float32).astype(np.float64)


def narrow(values: Doubles, out: Bytes, dtype: DType) -> None:
    """Round `values` once, to nearest even, into `out`; what is too large becomes infinite."""
    with np.errstate(all="ignore"):
        if dtype != BF16:
            np.copyto(out.view(NUMPY_FLOATS[dtype]), values, casting="same_kind")
            return
        odd = np.empty(len(values), np.float32)
        kernels.round_to_odd(values, odd)
        kernels.narrow_bf16(odd, out.view(BF16.bits))
