"""Processes that take signals as a command in a terminal does."""

from __future__ import annotations

import signal


def listen() -> None:
    """For `preexec_fn`: what a shell starts in the background ignores SIGINT, as would its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
