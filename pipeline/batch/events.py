"""What happens in a run, as it happens: for people a line here and there, for machines one of JSON each.

    {"event": "run_started", "time": "2026-11-22T08:00:00.120+00:00", "config": "release.json", ...}
    {"event": "step_started", "time": ..., "id": "delta-v1", "run": "compute"}
    {"event": "step_ended", "time": ..., "id": "delta-v1", "run": "compute", "status": "done", ...}
    {"event": "run_ended", "time": ..., "ok": true, "exit_code": 0, "seconds": 12.5, ...}

Every run that started ends, interrupted or not; so does every step that started. A step that is skipped
only ends. New keys may be added.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline.redaction import redact

if TYPE_CHECKING:
    from pipeline.batch.report import BatchReport, StepResult


def now() -> str:
    """The time, in UTC, by ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run of `steps`, in their order, began."""

    config: str | None
    steps: Sequence[str]
    dry_run: bool
    time: str = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class StepStarted:
    """The step `id` began to be looked at, and run if need be."""

    id: str
    run: str
    time: str = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class StepEnded:
    """A step ended, or will not begin."""

    step: StepResult
    time: str = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run ended, or was stopped. report: as it stands, with a result for every step."""

    report: BatchReport
    time: str = field(default_factory=now)


Event = RunStarted | StepStarted | StepEnded | RunEnded
OnEvent = Callable[[Event], None]


def unheard(event: Event) -> None:
    """Nobody wants to know."""


def as_line(event: Event) -> str:
    """The event as one line of JSON, without secrets."""
    match event:
        case RunStarted():
            name, facts = "run_started", asdict(event)
        case StepStarted():
            name, facts = "step_started", asdict(event)
        case StepEnded():
            name, facts = "step_ended", asdict(event.step)
        case RunEnded():
            name, facts = "run_ended", _outcome(event.report)
    return redact(
        json.dumps({"event": name, "time": event.time, **_without_time(facts)}, ensure_ascii=False)
    )


def _outcome(report: BatchReport) -> dict[str, Any]:
    """What a run came to: the report itself is on standard output."""
    ended = {status: report.count(status) for status in dict.fromkeys(s.status for s in report.steps)}
    return {
        "ok": report.ok,
        "exit_code": report.exit_code,
        "seconds": report.seconds,
        "dry_run": report.dry_run,
        "steps": ended,
    }


def _without_time(facts: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in facts.items() if name != "time"}
