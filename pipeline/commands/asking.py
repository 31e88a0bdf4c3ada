"""Asking the person at the terminal before something is removed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, TextIO, TypeVar

import typer

from pipeline.errors import UsageError

Report = TypeVar("Report")
Show = Callable[[Report, TextIO], None]

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def asking(question: str, show: Show[Report], *, yes: bool) -> Callable[[Report], bool]:
    """Whether what a report says may be done: `yes`, or what the person says who is shown it.

    Raises UsageError, when called, if nobody is there to answer.
    """

    def agree(report: Report) -> bool:
        if yes:
            return True
        show(report, sys.stderr)
        if not sys.stdin.isatty():
            raise UsageError("nobody is there to agree to that", hint="add --yes")
        return typer.confirm(question, err=True)

    return agree


def asking_if_there(question: str, show: Show[Report], *, yes: bool) -> Callable[[Report], bool]:
    """As `asking`, but where nobody can answer the answer is no."""
    return asking(question, show, yes=yes) if yes or sys.stdin.isatty() else lambda report: False
