"""The methods without a code: raw elements, and one element that stands for all."""

from __future__ import annotations

import numpy as np

from pipeline.codecs import kernels
from pipeline.codecs.base import Damage, Nested
from pipeline.tensors.dtypes import Bytes


class Raw:
    """The elements as they are."""

    code = 0

    def encode(self, data: Bytes, itemsize: int, out: Bytes, nested: Nested) -> int | None:
        if len(data) > len(out):
            return None
        out[: len(data)] = data
        return len(data)

    def decode(self, payload: Bytes, itemsize: int, out: Bytes, nested: Nested) -> None:
        if len(payload) != len(out):
            raise Damage(f"{len(payload)} raw bytes where {len(out)} belong")
        out[:] = payload


class Constant:
    """The one element that all are; nothing if it is zero."""

    code = 1

    def encode(self, data: Bytes, itemsize: int, out: Bytes, nested: Nested) -> int | None:
        if not kernels.is_constant(data, itemsize):
            return None
        size = itemsize if data[:itemsize].any() else 0
        if size > len(out):
            return None
        out[:size] = data[:size]
        return size

    def decode(self, payload: Bytes, itemsize: int, out: Bytes, nested: Nested) -> None:
        if len(payload) not in (0, itemsize):
            raise Damage(f"a constant of {len(payload)} bytes for elements of {itemsize}")
        out.reshape(-1, itemsize)[:] = payload if len(payload) else np.uint8(0)
