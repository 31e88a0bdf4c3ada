"""How many requests of one run are under way to a container, and how patiently they are repeated.

The right number of connections depends on the account, the machine and who else is at work, so it is
found out: few at first, more where that brings more bytes a second, half as many when the service says
that it is too busy. That is the additive increase and multiplicative decrease of D. Chiu and R. Jain,
"Analysis of the increase and decrease algorithms for congestion avoidance in computer networks", 1989.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

from pipeline.errors import AccessError, PipelineError, Unreachable
from pipeline.storage.azure.errors import explained
from pipeline.storage.retry import TRIES, retried

FIRST_REQUESTS = 4  # under way at once
MOST_REQUESTS = 32
FIRST_TRIES = 2  # and a last one, of an account that has not answered yet: it may not exist
_GAIN = 1.05  # by so much more connections must be faster, to be kept
_WINDOW_S = 0.25  # the shortest in which a rate means something
_FORGET = 0.98  # of the best rate, in each window that did not reach it: conditions change

Result = TypeVar("Result")


class Traffic:
    """The requests of one run to one container. Safe to use from several threads."""

    def __init__(self, *, first: int = FIRST_REQUESTS, most: int = MOST_REQUESTS) -> None:
        self.limit = first
        self._proven = first  # more than these have not been faster
        self._most = most
        self._under_way = 0
        self._has_answered = False
        self._last_cut = 0.0
        self._best = 0.0
        self._begin_window()
        self._turn = threading.Condition()

    def ask(
        self, where: str, action: Callable[[], Result], *, nbytes: int = 0, tries: int = TRIES
    ) -> Result:
        """The result of one request about `where` that moves `nbytes`, with patience for `tries`.

        Raises our own errors, Unreachable only after the last try.
        """

        def attempt() -> Result:
            with self._turn_of_one(nbytes), explained(where):
                return action()

        if not self._has_answered:
            with suppress(Unreachable):
                return retried(attempt, tries=FIRST_TRIES)
            if not self._has_answered:
                return attempt()  # the last time
        return retried(attempt, tries=tries)

    @contextmanager
    def _turn_of_one(self, nbytes: int) -> Iterator[None]:
        """Wait until one more request may be under way, and learn from how it ends."""
        with self._turn:
            self._turn.wait_for(lambda: self._under_way < self.limit)
            self._under_way += 1
        began = time.monotonic()
        try:
            yield
        except PipelineError as error:
            with self._turn:
                if isinstance(error, Unreachable):
                    self._has_answered |= error.status is not None
                    if error.is_busy:
                        self._slow_down(began)
                else:  # to be refused is no sign of the account that was meant
                    self._has_answered |= not isinstance(error, AccessError)
            raise
        else:
            with self._turn:
                self._has_answered = True
                self._count(nbytes)
        finally:
            with self._turn:
                self._under_way -= 1
                self._turn.notify_all()

    def _slow_down(self, began: float) -> None:
        """Half as many; but once for all requests that were under way together."""
        if began >= self._last_cut:
            self.limit = self._proven = max(1, self.limit // 2)
            self._last_cut = time.monotonic()
            self._best = 0.0
            self._begin_window()

    def _count(self, nbytes: int) -> None:
        """Note that a request has moved `nbytes`; at the end of a window, see whether more would pay."""
        if not nbytes:
            return
        self._bytes += nbytes
        self._requests += 1
        seconds = time.monotonic() - self._began
        if self._requests < 2 * self.limit or seconds < _WINDOW_S:
            return
        rate = self._bytes / seconds
        if rate > self._best * _GAIN:
            self._best = rate
            self._proven = self.limit
            self.limit = min(self._most, self.limit + max(1, self.limit // 4))
        else:
            self._best *= _FORGET
            self.limit = self._proven
        self._begin_window()

    def _begin_window(self) -> None:
        self._began = time.monotonic()
        self._bytes = 0
        self._requests = 0
