"""Whether a generated answer is right.

Patterns come from files. Neither the standard library's expressions nor those of the package `regex`
bound what a pattern may take: `a*a*a*a*b` takes years of the first, `((a{1000}){1000}){1000}` all memory
of the second, and no rule about how a pattern may look keeps out all of these and lets the sensible ones
in. RE2 needs time in proportion to the text and a fixed amount of memory, whatever the pattern; for that
it knows no look-around and no references back.
"""

from __future__ import annotations

from typing import Any

from pipeline.units import MIB

_MAX_PATTERN = 2000  # characters
_MAX_PROGRAM_BYTES = 8 * MIB


def check_pattern(pattern: str) -> None:
    """Raises ValueError if `pattern` is no regular expression that RE2 takes."""
    if len(pattern) > _MAX_PATTERN:
        raise ValueError(f"pattern is longer than {_MAX_PATTERN:,} characters")
    _compile(pattern)


def is_same(given: str, answer: str) -> bool:
    """Whether the text `given` is `answer`, white space around both aside."""
    return given.strip() == answer.strip()


def matches(given: str, pattern: str) -> bool:
    """Whether all of `given`, white space around it aside, matches `pattern`; a dot is any character."""
    return _compile(pattern).fullmatch(given.strip()) is not None


def _compile(pattern: str) -> Any:
    """The compiled pattern. Raises ValueError."""
    import re2

    options = re2.Options()
    options.dot_nl = True
    options.log_errors = False
    options.max_mem = _MAX_PROGRAM_BYTES
    try:
        return re2.compile(pattern, options)
    except (re2.error, UnicodeEncodeError) as error:
        said = error.args[0] if error.args else ""
        text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        raise ValueError(f"pattern is not one that RE2 takes: {text}") from error
