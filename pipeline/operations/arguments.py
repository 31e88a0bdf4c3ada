"""What people write for deltas where a command takes several things."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pipeline.checkpoints.files import PICKLES, SAFETENSORS
from pipeline.errors import UsageError
from pipeline.redaction import redact
from pipeline.storage.locations import Scheme, parse_delta, split_scale


@dataclass(frozen=True, slots=True)
class Difference:
    """A delta on the way: post - base, two locations of checkpoints, which is used and not written."""

    base: str
    post: str

    def __repr__(self) -> str:
        """Locations may carry a signature, which is not shown."""
        return f"Difference(base={redact(self.base)!r}, post={redact(self.post)!r})"


Scaled = tuple[str, float]  # a delta's location and its scale
ScaledAddend = tuple[str | Difference, float]  # the same, or a difference and its scale

_Named = TypeVar("_Named", bound=str | Difference)


def parse_scaled(text: str, scale: float) -> Scaled:
    """A delta's location and its scale from "DELTA" or "DELTA=SCALE"; `scale` is the default.

    Raises UsageError if what stands behind the last equals sign is no number.
    """
    location, number = split_scale(text)
    if number is None:
        return text, scale
    try:
        return location, float(number)
    except ValueError:
        raise UsageError(f"{number!r} is not a scale", where=text, hint="write DELTA=0.5") from None


def scaled(
    deltas: Sequence[_Named | tuple[_Named, float]], scale: float = 1.0
) -> list[tuple[_Named, float]]:
    """Each delta with its scale, `scale` being that of those that have none.

    Raises UsageError if there is no delta, or a scale is no finite number.
    """
    wanted = [(each, scale) if isinstance(each, str | Difference) else each for each in deltas]
    if not wanted:
        raise UsageError("no delta is given", hint="add --delta NAME")
    if any(not math.isfinite(factor) for _, factor in wanted):
        raise UsageError("a scale must be a finite number", hint="for example --delta NAME=0.8")
    return wanted


def names_a_delta(location: str) -> bool:
    """Whether `location` is one of a file that may be a delta: by its name, or because it is there."""
    try:
        where = parse_delta(location)
    except UsageError:
        return False  # a model on the Hub
    is_file = where.scheme is Scheme.LOCAL and Path(where.path).is_file()
    return where.path.endswith(SAFETENSORS) or (is_file and not where.path.endswith(PICKLES))
