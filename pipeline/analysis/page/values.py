"""Plain values out of reports that anybody may have written: of the right kind and size, or nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

MAX_CHARACTERS = 2000  # of a text; a page shows no more of it
MAX_ROWS = 20_000  # of anything in one report


def as_text(value: object) -> str | None:
    """`value`, if it is a text that is not empty; its end is cut if it is long."""
    if not isinstance(value, str) or not value:
        return None
    return value if len(value) <= MAX_CHARACTERS else value[:MAX_CHARACTERS] + "…"


def as_number(value: object) -> float | None:
    """`value`, if it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def as_count(value: object) -> int | None:
    """`value`, if it is a whole number that a count of bytes or elements can be."""
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63
    return value if is_count and isinstance(value, int) else None


def as_flag(value: object) -> bool | None:
    """`value`, if it is true or false."""
    return value if isinstance(value, bool) else None


def as_mapping(value: object) -> Mapping[str, Any]:
    """`value`, if it is an object; else an empty one."""
    return value if isinstance(value, dict) else {}


def as_list(value: object) -> list[Any]:
    """The first items of `value`, if it is a list or a tuple; else none."""
    return list(value[:MAX_ROWS]) if isinstance(value, list | tuple) else []


def as_texts(value: object) -> tuple[str, ...]:
    """The texts in a list."""
    return tuple(text for each in as_list(value) if (text := as_text(each)))


def as_mappings(value: object) -> Iterator[Mapping[str, Any]]:
    """The objects in a list."""
    return (each for each in as_list(value) if isinstance(each, dict))
