"""Trying again what the network spoiled, on top of the retries that the clients do themselves.

The Azure SDK retries neither 429 nor a digest that did not match, and the Hub's client neither a reset
connection nor a 5xx in the middle of a body; runs of hours meet all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from pipeline.errors import Unreachable

TRIES = 5
FIRST_WAIT_S = 1.0

Result = TypeVar("Result")


def retried(action: Callable[[], Result]) -> Result:
    """The result of `action`, which is called again, after waits that double, while it is Unreachable.

    Raises what the last of `TRIES` calls raised, and anything else at once.
    """
    for attempt in range(TRIES - 1):
        try:
            return action()
        except Unreachable:
            time.sleep(FIRST_WAIT_S * 2**attempt)
    return action()
