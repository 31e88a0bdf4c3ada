"""A plan or a run as Markdown, for a person who looks at a pull request or a CI job."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pipeline.errors import ConfigError, printable
from pipeline.redaction import redact
from pipeline.units import format_bytes

if TYPE_CHECKING:
    from pipeline.batch.report import BatchReport, StepResult

STATUSES = {"fresh": "up to date", "planned": "to do"}
_SIZES = ("read", "download", "written", "upload", "memory")
_SAID = ("comparison", "why")  # of a condition
_MAX_ROWS = 500  # GitHub takes 1 MiB for a step
_MAX_CHARACTERS = 1000  # of a cell
_DIGITS = 12  # of a digest: enough to tell two apart


def as_summary(report: BatchReport) -> str:
    """The report as a heading, one line of counts and a table with a row for each step.

    Names and messages are data: nothing in them is markup, and no secret is shown.
    """
    what = "plan" if report.dry_run else "run"
    lines = [
        f"### {_text(report.config or 'batch')}: {what} {_verdict(report)}",
        "",
        _counts(report),
        "",
    ]
    lines += _plan_table(report) if report.dry_run else _run_table(report)
    if len(report.steps) > _MAX_ROWS:
        lines += ["", f"And {len(report.steps) - _MAX_ROWS:,} steps more: the report has them."]
    lines += _conditions_table(report)
    lines += ["", f"Config <code>{report.config_digest[:_DIGITS]}</code> · {_text(report.tool)}"]
    return "\n".join(lines) + "\n"


def summarise_problems(error: ConfigError) -> str:
    """A config's problems as a heading and a list."""
    count = len(error.problems)
    heading = f"### {_text(error.where or 'batch')}: {count} problem{'s' * (count != 1)}"
    return "\n".join([heading, "", *(f"- {_text(problem)}" for problem in error.problems)]) + "\n"


def _verdict(report: BatchReport) -> str:
    if report.ok:
        return "has nothing against it" if report.dry_run else "done"
    return "finds problems" if report.dry_run else "failed"


def _counts(report: BatchReport) -> str:
    statuses = dict.fromkeys(step.status for step in report.steps)
    parts = [f"{report.count(status)} {STATUSES.get(status, status)}" for status in statuses]
    count = len(report.steps)
    return f"{count} step{'s' * (count != 1)}: {', '.join(parts)}. {report.seconds:.1f} s."


def _plan_table(report: BatchReport) -> list[str]:
    """Status, step, why, and the sizes of which there are any; the last row has them together."""
    known = {
        size: sizes for size in _SIZES if any(sizes := [_size(step, size) or 0 for step in report.steps])
    }
    rows = []
    for step in report.steps[:_MAX_ROWS]:
        shown = [_bytes(_size(step, size)) for size in known]
        rows.append([_status(step), _name(step), _text(_why(step)), *shown])
    # Steps take memory one after another.
    together = [max(sizes) if size == "memory" else sum(sizes) for size, sizes in known.items()]
    rows += [["", "together", "", *map(_bytes, together)]] * bool(known)
    return _table(["status", "step", "why", *known], rows)


def _run_table(report: BatchReport) -> list[str]:
    """Status, step, what came of it, where it lies."""
    rows = []
    for step in report.steps[:_MAX_ROWS]:
        result = step.result or {}
        place = f"<code>{_text(str(result['output']))}</code>" if result.get("output") else ""
        digest = str(result.get("fingerprint") or "")[:_DIGITS]
        shown = f"<code>{_text(digest)}</code>" if digest else ""
        size = _bytes(_size(step, "written"))
        rows.append([_status(step), _name(step), _text(_why(step)), place, shown, size, _time(step)])
    return _table(["status", "step", "why", "output", "fingerprint", "written", "seconds"], rows)


def _conditions_table(report: BatchReport) -> list[str]:
    """What gates have asked for, and what they have found."""
    rows = [
        [
            _name(step),
            "passed" if each["passed"] else "**refused**",
            *map(_text, (each[c] for c in _SAID)),
        ]
        for step in report.steps[:_MAX_ROWS]
        for each in (step.result or {}).get("judgements", ())
    ]
    if not rows:
        return []
    more = [f"And {len(rows) - _MAX_ROWS:,} conditions more."] * (len(rows) > _MAX_ROWS)
    return ["", *_table(["gate", "", "condition", "found"], rows[:_MAX_ROWS]), *more]


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    lines = [heads, ["---"] * len(heads), *rows]
    return [f"| {' | '.join(cells)} |" for cells in lines]


def _status(step: StepResult) -> str:
    shown = STATUSES.get(step.status, step.status)
    return f"**{shown}**" if step.status == "failed" else shown


def _name(step: StepResult) -> str:
    return f"<code>{_text(step.id)}</code> ({_text(step.run)})"


def _why(step: StepResult) -> str:
    after = f"after {', '.join(step.waits_for)}" if step.waits_for else ""
    return step.error or step.reason or after


def _time(step: StepResult) -> str:
    return f"{step.seconds:.1f}"


def _size(step: StepResult, name: str) -> int | None:
    size = (step.result or {}).get(f"{name}_bytes")
    return size if isinstance(size, int) else None


def _bytes(size: int | None) -> str:
    return "" if size is None else format_bytes(size)


def _text(text: str) -> str:
    """`text` without secrets, so written that nothing in it is Markdown, HTML or a new row."""
    text = " ".join(printable(redact(text)).split())
    if len(text) > _MAX_CHARACTERS:
        text = text[:_MAX_CHARACTERS] + "…"
    return re.sub(r"[^\w\s./:,;()=+'…∆−·×-]|_", lambda found: f"&#{ord(found[0])};", text)
