"""Which tensors a sum adds to, and how much: patterns of names, and ranges of layers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pipeline.analysis.naming import seat_of
from pipeline.errors import UsageError

_LAYERS = re.compile(r"layers:(\d{1,5})(?:-(\d{1,5}))?", re.ASCII)
_MAX_PROGRAM_BYTES = 1 << 20  # of a compiled pattern
_MOST_PATTERNS = 1000

Matches = Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Selection:
    """Patterns: of what alone is added to (all, if none), of what is not, and with which factor."""

    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    scale_for: tuple[tuple[str, float], ...] = ()

    @classmethod
    def parse(
        cls,
        problems: list[str],
        *,
        only: str | Sequence[str] = (),
        skip: str | Sequence[str] = (),
        scale_for: str | Sequence[str | tuple[str, float]] = (),
    ) -> Self:
        """The selection that people wrote. What is wrong with it is appended to `problems`."""
        given = (scale_for,) if isinstance(scale_for, str) else scale_for
        factors = [_parse_factor(each, problems) for each in given]
        found = cls(_several(only), _several(skip), tuple(each for each in factors if each))
        patterns = [*found.only, *found.skip, *(pattern for pattern, _ in found.scale_for)]
        if len(patterns) > _MOST_PATTERNS:
            problems.append(f"{len(patterns)} patterns are more than {_MOST_PATTERNS}")
            return cls()
        for pattern in patterns:
            if not pattern:
                problems.append("an empty pattern matches every name")
            try:
                _matcher(pattern)
            except ValueError as error:
                problems.append(str(error))
        return found

    def factors(self, names: Iterable[str]) -> dict[str, float | None]:
        """What is added to each tensor is multiplied by this; None for one that is left out.

        Raises UsageError for a pattern that matches none, and if nothing is left to add to: both say
        something else than was meant.
        """
        known = list(names)
        if self == Selection():
            return dict.fromkeys(known, 1.0)
        idle: list[str] = []

        def matched(pattern: str) -> set[str]:
            matches = _matcher(pattern)
            found = {name for name in known if matches(name)}
            if not found:
                idle.append(pattern)
            return found

        only = [matched(pattern) for pattern in self.only]
        skip = [matched(pattern) for pattern in self.skip]
        scaled = [(matched(pattern), factor) for pattern, factor in self.scale_for]
        if idle:
            raise UsageError(
                f"{', '.join(map(repr, idle))} match no tensor of the result",
                where="--only, --skip, --scale-for",
                hint="see `cli.py inspect` for the names",
            )
        result: dict[str, float | None] = {}
        for name in known:
            wanted = not only or any(name in each for each in only)
            factor = next((factor for each, factor in reversed(scaled) if name in each), 1.0)
            result[name] = factor if wanted and not any(name in each for each in skip) else None
        if all(factor is None for factor in result.values()):
            raise UsageError(
                "nothing is added to any tensor: all are left out",
                where="--only, --skip",
                hint="give patterns that leave some",
            )
        return result

    def described(self) -> dict[str, Any]:
        """What is not left open, for JSON."""
        parts = {"only": self.only, "skip": self.skip, "scale_for": self.scale_for}
        return {name: [*part] for name, part in parts.items() if part}


def _several(patterns: str | Sequence[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def _parse_factor(given: str | tuple[str, float], problems: list[str]) -> tuple[str, float] | None:
    """A pattern and its factor, from "PATTERN=FACTOR" or both."""
    pattern, number = given.rpartition("=")[::2] if isinstance(given, str) else given
    try:
        factor = float(number)
    except ValueError:
        factor = math.nan
    if pattern and math.isfinite(factor):
        return pattern, factor
    problems.append(f"{given!r} is no pattern with a factor, such as 'mlp=0.5'")
    return None


def _matcher(pattern: str) -> Matches:
    """Says of a name whether it matches. Raises ValueError."""
    found = _LAYERS.fullmatch(pattern)
    if found:
        first, last = int(found[1]), int(found[2] or found[1])
        if first > last:
            raise ValueError(f"{pattern!r} has no layer in it")
        return lambda name: (layer := seat_of(name).layer) is not None and first <= layer <= last
    if pattern.startswith("layers:"):
        raise ValueError(f"{pattern!r} is no range of layers, such as 'layers:0-7'")
    compiled = _compile(pattern)
    return lambda name: compiled.search(name) is not None


def _compile(pattern: str) -> Any:
    import re2

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MAX_PROGRAM_BYTES
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        raise ValueError(f"{pattern!r} is not a pattern that RE2 takes") from error
