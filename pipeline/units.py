"""Byte counts as people write and read them."""

from __future__ import annotations

import re

from pipeline.errors import UsageError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_FACTORS = {
    "": 1, "b": 1,
    "k": KIB, "kib": KIB, "kb": 1000,
    "m": MIB, "mib": MIB, "mb": 1000**2,
    "g": GIB, "gib": GIB, "gb": 1000**3,
    "t": 1024 * GIB, "tib": 1024 * GIB, "tb": 1000**4,
}  # fmt: skip


def parse_bytes(text: str | int) -> int:
    """Bytes meant by `text`: "1GiB", "500 MB", "64k" (powers of 1024) or a plain number.

    Raises UsageError for anything else, and for sizes below one byte.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", str(text))
    factor = _FACTORS.get(match.group(2).lower()) if match else None
    if match is None or factor is None or (size := int(float(match.group(1)) * factor)) < 1:
        raise UsageError(f"{text!r} is not a size", hint="write it as 512MiB or 2GiB")
    return size


def format_bytes(count: float) -> str:
    """`count` bytes in the largest binary unit that leaves at least 1, with three digits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.4g} TiB"
