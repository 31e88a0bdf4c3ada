"""Trying again what the network spoiled: the one place where anything is repeated.

The clients' own retries are switched off where they can be, because they do not know of Retry-After, of
429, of digests that did not match, or of how many requests are under way; long runs meet all of them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

from pipeline.errors import Unreachable

TRIES = 12  # a little over a minute with the waits between them
FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 8.0
LONGEST_RETRY_AFTER_S = 60.0  # a service that asks for more is as good as down

Result = TypeVar("Result")


def retry_after_s(value: str | None) -> float | None:
    """How many seconds a Retry-After header asks for: a number, or a date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    with suppress(ValueError):
        return max(0.0, float(value))
    from email.utils import parsedate_to_datetime  # slow to import

    with suppress(ValueError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None


def retried(action: Callable[[], Result], *, tries: int = TRIES) -> Result:
    """The result of `action`, which is called again while it is Unreachable, at most `tries` times.

    Waits double up to LONGEST_WAIT_S, give or take a quarter, so that many workers do not come back
    together; where the service has said how long to wait, at least that long.
    Raises what the last call raised, and anything but Unreachable at once.
    """
    for attempt in range(tries - 1):
        try:
            return action()
        except Unreachable as error:
            wait = min(FIRST_WAIT_S * 2**attempt, LONGEST_WAIT_S) * random.uniform(0.75, 1.25)
            asked = min(error.retry_after_s or 0.0, LONGEST_RETRY_AFTER_S)
            time.sleep(max(wait, asked))
    return action()
