"""A run as JUnit XML, which CI systems show: a test case for each step.

Of the several dialects only what they have in common is written: one `testsuite` with counts, cases with
`failure`, `error` or `skipped`, and `system-out`. A bug of ours is an error, all else a failure; a step
that is up to date or planned has passed.
"""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from pipeline.batch.evidence import conditions_told
from pipeline.batch.report import BatchReport, StepResult
from pipeline.errors import printable
from pipeline.redaction import redact

_A_BUG = 1
_OF_RESULTS = ("output", "fingerprint", "read_bytes", "written_bytes")


def as_junit(report: BatchReport) -> str:
    """The report as an XML document, without secrets and with what XML can't hold escaped."""
    failed = [step for step in report.steps if step.status == "failed"]
    errors = [step for step in failed if step.exit_code == _A_BUG]
    counts = {
        "tests": len(report.steps),
        "failures": len(failed) - len(errors),
        "errors": len(errors),
        "skipped": report.count("skipped"),
    }
    numbers = {name: str(count) for name, count in counts.items()} | {"time": _seconds(report.seconds)}
    name = _clean(report.config or "batch")
    suites = Element("testsuites", {"name": name, **numbers})
    when = report.started.partition("+")[0]  # the schema has no time zones
    suite = SubElement(suites, "testsuite", {"name": name, **numbers, "timestamp": when})
    properties = SubElement(suite, "properties")
    for key, value in (("config_digest", report.config_digest), ("tool", report.tool)):
        SubElement(properties, "property", {"name": key, "value": value})
    for step in report.steps:
        _add_case(suite, name, step)
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, "unicode") + "\n"


def _add_case(suite: Element, config: str, step: StepResult) -> None:
    """A step as a test case."""
    place = {"classname": f"{config}.{_clean(step.run)}", "name": _clean(step.id)}
    case = SubElement(suite, "testcase", {**place, "time": _seconds(step.seconds)})
    error = _clean(step.error or "")
    if step.status == "skipped":
        SubElement(case, "skipped", {"message": error})
    elif step.status == "failed":
        kind = "error" if step.exit_code == _A_BUG else "failure"
        SubElement(case, kind, {"message": error, "type": f"exit code {step.exit_code}"}).text = error
    if told := _told(step):
        SubElement(case, "system-out").text = told


def _told(step: StepResult) -> str:
    """What there is to know of a step that went well, in lines of name and value."""
    facts = {"status": step.status, "why": step.reason, "waits for": ", ".join(step.waits_for)}
    facts |= {"key": step.key}
    result = step.result or {}
    facts |= {
        name: result.get(name) for name in ("output", "fingerprint", "read_bytes", "written_bytes")
    }
    lines = [f"{name}: {_clean(str(value))}" for name, value in facts.items() if value]
    return "\n".join([*lines, *map(_clean, conditions_told(result))])


def _clean(text: str) -> str:
    """`text` without secrets, and without the characters that XML has no way to write."""
    return printable(redact(text))


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f}"
