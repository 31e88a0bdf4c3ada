"""Progress for people: a bar with bytes per second and time left, on a terminal, after two seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

Advance = Callable[[int], None]
Progressing = Callable[[str, int], AbstractContextManager[Advance]]

QUIET_S = 2.0  # what is done by then needs no bar


@contextmanager
def silent(title: str, total_bytes: int) -> Iterator[Advance]:
    """Report nothing."""
    yield lambda nbytes: None


class Bars:
    """One live display on standard error, with a bar for each work under way; see `bars`.

    It appears once something has taken longer than `QUIET_S`. Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shown: Progress | None = None

    @contextmanager
    def __call__(self, title: str, total_bytes: int) -> Iterator[Advance]:
        """A bar for `total_bytes` of work."""
        started = time.monotonic()
        task: TaskID | None = None
        done = 0

        def advance(nbytes: int) -> None:
            nonlocal done, task
            with self._lock:
                done += nbytes
                if task is not None and self._shown is not None:
                    self._shown.update(task, advance=nbytes)
                elif time.monotonic() - started > QUIET_S:
                    task = self._show().add_task(title, total=total_bytes, completed=done)

        try:
            yield advance
        finally:
            with self._lock:
                if task is not None and self._shown is not None:
                    self._shown.remove_task(task)

    def _show(self) -> Progress:
        if self._shown is None:
            self._shown = _make_bars()
            self._shown.start()
        return self._shown

    def close(self) -> None:
        """Take the display away."""
        if self._shown is not None:
            self._shown.stop()


@contextmanager
def bars() -> Iterator[Progressing]:
    """Bars for works that are under way at the same time; nothing if there is no terminal."""
    if not sys.stderr.isatty():
        yield silent
        return
    shown = Bars()
    try:
        yield shown
    finally:
        shown.close()


@contextmanager
def bar(title: str, total_bytes: int) -> Iterator[Advance]:
    """A bar on standard error for `total_bytes` of work; nothing if that is not a terminal."""
    with bars() as shown, shown(title, total_bytes) as advance:
        yield advance


def _make_bars() -> Progress:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        progress.TransferSpeedColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
