"""Progress for people: a bar with bytes per second and time left, on a terminal, after two seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

Advance = Callable[[int], None]
Progressing = Callable[[str, int], AbstractContextManager[Advance]]

QUIET_S = 2.0  # what is done by then needs no bar


@contextmanager
def silent(title: str, total_bytes: int) -> Iterator[Advance]:
    """Report nothing."""
    yield lambda nbytes: None


@contextmanager
def bar(title: str, total_bytes: int) -> Iterator[Advance]:
    """A bar on standard error for `total_bytes` of work; nothing if that is not a terminal."""
    if not sys.stderr.isatty():
        yield lambda nbytes: None
        return
    started = time.monotonic()
    lock = threading.Lock()
    done = 0
    shown: Progress | None = None

    def advance(nbytes: int) -> None:
        nonlocal done, shown
        with lock:
            done += nbytes
            if shown is None and time.monotonic() - started > QUIET_S:
                shown = _make_bar()
                shown.add_task(title, total=total_bytes, completed=done)
                shown.start()
            elif shown is not None:
                shown.update(shown.task_ids[0], advance=nbytes)

    try:
        yield advance
    finally:
        if shown is not None:
            shown.stop()


def _make_bar() -> Progress:
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
