"""How a command ends: one line for an error, and the exit code that `pipeline.errors` documents."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer

from pipeline.errors import AccessError, PipelineError, Refused, StepFailed

if TYPE_CHECKING:
    from pipeline.batch.report import BatchReport
    from pipeline.operations.doctor.report import Health
    from pipeline.quality.verdict import Verdict


@contextmanager
def ending(*, debug: bool) -> Iterator[None]:
    """Turn an error of the block into one line on standard error, or a traceback, and its exit code.

    Raises SystemExit.
    """
    try:
        yield
    except PipelineError as error:
        _end(f"error: {_one_line(error)}", error.exit_code, debug=debug)
    except Exception as error:
        hint = "run it again with --debug, and report what it says"
        text = f"error: a bug in this tool: {type(error).__name__}: {_one_line(error)} ({hint})"
        _end(text, 1, debug=debug)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _end(text: str, code: int, *, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    else:
        print(text, file=sys.stderr)
    sys.exit(code)


def judge_steps(report: BatchReport) -> None:
    """Raises StepFailed if not all steps of a batch are done.

    Raises AccessError or Refused instead, if nothing else was wrong.
    """
    if not report.ok:
        failed = ", ".join(step.id for step in report.steps if step.status == "failed")
        kinds = {kind.exit_code: kind for kind in (AccessError, Refused)}
        kind = kinds.get(report.exit_code, StepFailed)
        raise kind(f"{'refused' if kind is Refused else 'failed'}: {failed}", hint="the report says why")


def judge_verdict(verdict: Verdict) -> None:
    """Raises Refused if a gate does not let a model pass."""
    if not verdict.passed:
        raise Refused("refused: " + "; ".join(verdict.refusals), where=verdict.model)


def judge_checks(report: Health) -> None:
    """Raises typer.Exit with the code of doctor's first problem, if there is one."""
    if not report.ok:
        raise typer.Exit(report.exit_code)
