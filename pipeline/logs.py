"""Logging, as PIPELINE_LOG asks for it; without it our errors say enough."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import UsageError

_FORM = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_SILENCE = logging.NullHandler()
_TALKATIVE = ("azure", "msal", "urllib3")  # they warn of each try before the error that counts


@contextmanager
def logging_from(level: str | None) -> Iterator[None]:
    """Log to standard error from the level of that name on, until the end of the block; None: nothing.

    Raises UsageError for a name that is no level.
    """
    if level is None:
        for name in _TALKATIVE:
            logging.getLogger(name).addHandler(_SILENCE)
        yield
        return
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise UsageError(f"PIPELINE_LOG={level!r} is no level", hint="use DEBUG, INFO or WARNING")
    root, handler = logging.getLogger(), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(_FORM))
    logging.getLogger("numba").setLevel(max(number, logging.WARNING))  # it would tell of every byte
    before = root.level
    root.addHandler(handler)
    root.setLevel(number)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
