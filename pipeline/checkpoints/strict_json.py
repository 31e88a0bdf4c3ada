"""JSON from outside, taken only where all readers would read the same, and only as much as memory bears.

Python's own reader is kinder than others: to NaN, to names that occur twice, to halves of surrogate
pairs. And what takes two bytes as text may take seventy as an object.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

MAX_VALUES = 6_000_000  # so many take half a GiB; 100,000 tensors make 3,500,000 in a manifest
MAX_DEPTH = 64

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def plain(value: Any) -> Any:
    """`value` as strict JSON has it: None in place of NaN and infinities, lists in place of tuples."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def parse_json(data: bytes, *, nonfinite: bool = False) -> Any:
    """The value written as UTF-8 JSON `data`; `nonfinite`: with NaN and infinities, as Python has them.

    Raises ValueError for everything that RFC 8259 does not allow or leaves open: NaN and infinities,
    numbers too large for a float, a name that occurs twice, text that is not Unicode; and for more
    values, or deeper ones, than anybody needs.
    """
    if is_too_much(data):
        raise ValueError(f"more than {MAX_VALUES} values")
    text = data.decode()
    hooks: dict[str, Any] = {"object_pairs_hook": _no_duplicates}
    if b"-0" in data:
        hooks["parse_int"] = _integer
    if not nonfinite:
        hooks |= {"parse_constant": _no_constant, "parse_float": _finite}
    try:
        value = json.loads(text, **hooks)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if _SURROGATE.search(data):
        json.dumps(value, ensure_ascii=False).encode()  # a UnicodeEncodeError is a ValueError
    return value


def is_too_much(data: bytes) -> bool:
    """Whether `data` has more marks between values than `MAX_VALUES`, and so perhaps more values."""
    marks = (b",", b":", b"[", b"{")
    return len(data) > MAX_VALUES and sum(data.count(mark) for mark in marks) > MAX_VALUES


def is_deep(value: Any) -> bool:
    """Whether arrays and objects lie within each other more than `MAX_DEPTH` times."""
    level = [value]
    for _ in range(MAX_DEPTH + 1):
        level = [inner for outer in level for inner in _inside(outer)]
    return bool(level)


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name occurs twice")
    return fields


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is too large")
    return number


def _integer(text: str) -> int | float:
    """JSON has no minus zero among its integers."""
    return -0.0 if text == "-0" else int(text)
