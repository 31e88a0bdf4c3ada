"""Number formats, by the names that safetensors gives them.

Source of the names: the safetensors format description. Only IEEE-like floats of 16 to 64 bits are
arithmetic; integers and bools are carried, never added; narrower floats are codes that mean nothing
without their scales.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError

Bytes = NDArray[np.uint8]
Bits = NDArray[Any]  # unsigned integers, as wide as the format


class Kind(Enum):
    """What may be done with a tensor's numbers."""

    FLOAT = "float"  # subtracted and added
    PLAIN = "plain"  # integers, bools, complex: carried whole
    CODED = "coded"  # low-bit floats that need scales: refused


@dataclass(frozen=True, slots=True, eq=False)
class DType:
    """One number format: its safetensors name, bytes per element, and kind. Each is one object.

    bits: the unsigned integer type as wide as one element. is_float: whether elements may be subtracted
    and added.
    """

    name: str
    itemsize: int
    kind: Kind
    bits: np.dtype[Any] = field(init=False, repr=False)
    is_float: bool = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", np.dtype(f"<u{self.itemsize}"))
        object.__setattr__(self, "is_float", self.kind is Kind.FLOAT)

    def __reduce__(self) -> tuple[Any, ...]:
        return _known, (self.name,)  # the same object again, in another process too

    def __str__(self) -> str:
        return self.name


def _known(name: str) -> DType:
    return BY_NAME[name]


BF16 = DType("BF16", 2, Kind.FLOAT)
F16 = DType("F16", 2, Kind.FLOAT)
F32 = DType("F32", 4, Kind.FLOAT)
F64 = DType("F64", 8, Kind.FLOAT)
U8 = DType("U8", 1, Kind.PLAIN)

NUMPY_FLOATS = {F16: "<f2", F32: "<f4", F64: "<f8"}  # numpy has no bfloat16

BY_NAME: dict[str, DType] = {
    dtype.name: dtype
    for dtype in (
        BF16, F16, F32, F64, U8,
        DType("BOOL", 1, Kind.PLAIN), DType("I8", 1, Kind.PLAIN), DType("I16", 2, Kind.PLAIN),
        DType("U16", 2, Kind.PLAIN), DType("I32", 4, Kind.PLAIN), DType("U32", 4, Kind.PLAIN),
        DType("I64", 8, Kind.PLAIN), DType("U64", 8, Kind.PLAIN), DType("C64", 8, Kind.PLAIN),
        DType("F8_E4M3", 1, Kind.CODED), DType("F8_E5M2", 1, Kind.CODED),
        DType("F8_E8M0", 1, Kind.CODED), DType("F8_E4M3FNUZ", 1, Kind.CODED),
        DType("F8_E5M2FNUZ", 1, Kind.CODED),
    )
}  # fmt: skip

TORCH_NAMES: dict[str, DType] = {
    "bfloat16": BF16, "float16": F16, "float32": F32, "float64": F64, "uint8": U8,
    "bool": BY_NAME["BOOL"], "int8": BY_NAME["I8"], "int16": BY_NAME["I16"],
    "uint16": BY_NAME["U16"], "int32": BY_NAME["I32"], "uint32": BY_NAME["U32"],
    "int64": BY_NAME["I64"], "uint64": BY_NAME["U64"], "complex64": BY_NAME["C64"],
    "float8_e4m3fn": BY_NAME["F8_E4M3"], "float8_e5m2": BY_NAME["F8_E5M2"],
    "float8_e8m0fnu": BY_NAME["F8_E8M0"], "float8_e4m3fnuz": BY_NAME["F8_E4M3FNUZ"],
    "float8_e5m2fnuz": BY_NAME["F8_E5M2FNUZ"],
}  # fmt: skip


def compute_dtype(*dtypes: DType) -> DType:
    """The format that arithmetic on `dtypes` is done in: F64 if any of them is, else F32."""
    return F64 if F64 in dtypes else F32


def parse_dtype(text: str) -> DType | None:
    """The float format named `text` as torch names it, or None for "auto". Raises UsageError."""
    if text == "auto":
        return None
    dtype = TORCH_NAMES.get(text)
    if dtype is None or not dtype.is_float:
        names = "auto, bfloat16, float16, float32 or float64"
        raise UsageError(f"{text!r} is not a dtype for deltas", hint=f"use {names}")
    return dtype


def torch_name(dtype: DType | None) -> str | None:
    """What torch calls `dtype`; None for None."""
    return next((name for name, known in TORCH_NAMES.items() if known == dtype), None)
