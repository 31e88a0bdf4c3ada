"""The scales of a sweep, as people write them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from pipeline.errors import UsageError
from pipeline.quality.sweep import as_written

DEFAULT_SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
MOST_SCALES = 64


def parse_scales(
    scales: str | Sequence[float] | None,
    *,
    begin: float | None = None,
    end: float | None = None,
    steps: int | None = None,
) -> tuple[float, ...]:
    """The scales, ascending, each once.

    scales: numbers, or text with commas between. begin, end, steps: so many in place of these, evenly
    from `begin` to `end`, both among them. With neither, `DEFAULT_SCALES`.
    Raises UsageError for what is no number, too many of them, or both ways at once.
    """
    evenly = (begin, end, steps)
    if scales is not None and evenly != (None, None, None):
        raise UsageError("scales are given twice", hint="use --scales, or --from, --to and --steps")
    if scales is not None:
        found = _numbers(scales)
    elif evenly == (None, None, None):
        found = list(DEFAULT_SCALES)
    elif begin is None or end is None or steps is None:
        raise UsageError("only a part of a range is given", hint="use --from, --to and --steps together")
    else:
        found = _range(begin, end, steps)
    if not found or any(not math.isfinite(each) for each in found):
        raise UsageError("scales are finite numbers", hint="for example --scales 0,0.5,1")
    found = sorted({each + 0.0 for each in found})  # minus zero is zero
    if len(found) > MOST_SCALES:
        raise UsageError(f"{len(found)} scales are more than {MOST_SCALES}", hint="give fewer")
    return tuple(found)


def _numbers(scales: str | Sequence[float]) -> list[float]:
    words = scales.split(",") if isinstance(scales, str) else scales
    try:
        return [float(word) for word in words]
    except (ValueError, TypeError):
        text = f"{scales!r} are not scales"
        raise UsageError(text, hint="write numbers with commas between: 0,0.5,1") from None


def _range(begin: float, end: float, steps: int) -> list[float]:
    if not 2 <= steps <= MOST_SCALES:
        raise UsageError(f"{steps} steps make no range", hint=f"give 2 to {MOST_SCALES}")
    if not (math.isfinite(begin) and math.isfinite(end)):
        return [begin, end]  # refused as all others are
    first, last = Fraction(repr(float(begin))), Fraction(repr(float(end)))  # 0.1 is meant as a tenth
    return [float(first + (last - first) * at / (steps - 1)) for at in range(steps)]


def name_of(scale: float) -> str:
    """What files of this scale are called: no two scales share a name."""
    return f"scale-{as_written(scale)}"
