"""What a run is told as: JUnit XML, a Markdown summary, events; without secrets, whatever names say."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from pipeline.batch.events import RunEnded, RunStarted, StepEnded, StepStarted, as_line
from pipeline.batch.junit import as_junit
from pipeline.batch.report import BatchReport, StepResult
from pipeline.batch.summary import as_summary, summarise_problems
from pipeline.errors import ConfigError
from pipeline.redaction import MARK

SAS = "https://acc.blob.core.windows.net/c/d?sv=1&sig=c2VjcmV0c2VjcmV0&se=2"
HOSTILE = "a|b`c`*d*_e_<script>&lt;[x](http://x)\n# head\x1b[31m\x00\ud800$x$ ~~z~~ \\| ![i](j)"

DONE = StepResult(
    "delta", "compute", "done", 1.5, key="k" * 64,
    result={"output": "d.safetensors", "fingerprint": "f" * 64, "written_bytes": 1024},
)  # fmt: skip
FRESH = StepResult("old", "apply", "fresh", 0.1)
FAILED = StepResult("bad", "apply", "failed", 0.2, error="no such folder", exit_code=3)
BUG = StepResult("bug", "apply", "failed", 0.2, error="a bug in this tool: KeyError", exit_code=1)
SKIPPED = StepResult("after", "verify", "skipped", error="needs 'bad', which failed", exit_code=3)
PLANNED = StepResult(
    "new", "compute", "planned", reason="nothing is there yet",
    result={"read_bytes": 4096, "written_bytes": 1024, "upload_bytes": 0, "memory_bytes": 2048},
)  # fmt: skip
WAITING = StepResult(
    "late", "apply", "planned", waits_for=("new", "old"),
    result={"read_bytes": 1024, "written_bytes": 1024, "memory_bytes": 1024},
)  # fmt: skip


def report(*steps: StepResult, dry_run: bool = False, config: str | None = "r.json") -> BatchReport:
    return BatchReport(config, "d" * 64, "2026-11-22T08:00:00+00:00", 2.5, dry_run, steps)


def hostile(step: StepResult) -> StepResult:
    """The step, with names and messages of somebody who means no good."""
    result = {"output": HOSTILE, "fingerprint": HOSTILE, "written_bytes": 1}
    return replace(step, reason=HOSTILE, error=f"{HOSTILE} {SAS}", result=result)


# -- JUnit ----------------------------------------------------------------------------------------------

# Jenkins' JUnit schema (junit-10.xsd), as far as we go: each element with its attributes and children.
JUNIT = {
    "testsuites": ({"name", "tests", "failures", "errors", "skipped", "time"}, ["testsuite"]),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp"},
        ["properties", "testcase", "system-out"],
    ),
    "properties": (set(), ["property"]),
    "property": ({"name", "value"}, []),
    "testcase": ({"name", "classname", "time"}, ["skipped", "error", "failure", "system-out"]),
    "skipped": ({"message"}, []),
    "error": ({"message", "type"}, []),
    "failure": ({"message", "type"}, []),
    "system-out": (set(), []),
}


def assert_is_junit(element: ElementTree.Element) -> None:
    attributes, children = JUNIT[element.tag]
    assert set(element.attrib) <= attributes
    order = [children.index(child.tag) for child in element]
    assert order == sorted(order)
    for name in set(element.attrib) & {"tests", "failures", "errors", "skipped"}:
        assert element.attrib[name].isdigit()
    if when := element.get("timestamp"):
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", when)
    for child in element:
        assert_is_junit(child)


def test_junit_has_a_case_for_each_step_and_counts_them():
    root = ElementTree.fromstring(as_junit(report(DONE, FRESH, FAILED, BUG, SKIPPED)))
    assert_is_junit(root)
    (suite,) = root
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped", "time")}
    assert counts == {"tests": "5", "failures": "1", "errors": "1", "skipped": "1", "time": "2.500"}
    kinds = {
        case.get("name"): [child.tag for child in case if child.tag != "system-out"]
        for case in suite.iter("testcase")
    }
    assert kinds == {
        "delta": [], "old": [], "bad": ["failure"], "bug": ["error"], "after": ["skipped"],
    }  # fmt: skip
    failure = suite.find("testcase/failure")
    assert failure is not None and failure.attrib == {"message": "no such folder", "type": "exit code 3"}


def test_junit_of_a_plan_passes():
    root = ElementTree.fromstring(as_junit(report(PLANNED, WAITING, dry_run=True)))
    assert_is_junit(root)
    assert root.get("failures") == root.get("skipped") == "0"
    assert [told.text for told in root.iter("system-out")] == [
        "status: planned\nwhy: nothing is there yet\nread_bytes: 4096\nwritten_bytes: 1024",
        "status: planned\nwaits for: new, old\nread_bytes: 1024\nwritten_bytes: 1024",
    ]


@pytest.mark.parametrize("step", [DONE, FAILED, BUG, SKIPPED, PLANNED], ids=lambda step: step.id)
def test_junit_holds_hostile_names_as_text_and_no_secrets(step):
    text = as_junit(report(hostile(step), config=f"{HOSTILE}.json"))
    root = ElementTree.fromstring(text.encode())  # is XML, can be encoded
    assert_is_junit(root)
    assert "<script>" not in text and "c2VjcmV0" not in text
    (suite,) = root
    assert str(suite.get("name")).startswith("a|b`c`*d*_e_<script>&lt;[x](http://x)")


# -- Markdown -------------------------------------------------------------------------------------------


def rows(summary: str) -> list[list[str]]:
    lines = [line for line in summary.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_summary_of_a_plan_is_a_table_of_what_would_be_done_and_why():
    text = as_summary(report(FRESH, PLANNED, WAITING, dry_run=True))
    assert text.startswith("### r.json: plan has nothing against it\n\n3 steps: 1 up to date, 2 to do.")
    assert rows(text) == [
        ["status", "step", "why", "read", "written", "memory"],
        ["---"] * 6,
        ["up to date", "<code>old</code> (apply)", "", "", "", ""],
        ["to do", "<code>new</code> (compute)", "nothing is there yet", "4 KiB", "1 KiB", "2 KiB"],
        ["to do", "<code>late</code> (apply)", "after new, old", "1 KiB", "1 KiB", "1 KiB"],
        ["", "together", "", "5 KiB", "2 KiB", "2 KiB"],
    ]


def test_the_summary_of_a_run_is_a_table_of_what_came_of_it():
    text = as_summary(report(DONE, FAILED, SKIPPED))
    assert text.startswith("### r.json: run failed\n\n3 steps: 1 done, 1 failed, 1 skipped. 2.5 s.")
    output, digest = "<code>d.safetensors</code>", f"<code>{'f' * 12}</code>"
    assert rows(text)[2:] == [
        ["done", "<code>delta</code> (compute)", "", output, digest, "1 KiB", "1.5"],
        ["**failed**", "<code>bad</code> (apply)", "no such folder", "", "", "", "0.2"],
        ["skipped", "<code>after</code> (verify)", "needs 'bad', which failed", "", "", "", "0.0"],
    ]


@pytest.mark.parametrize("dry_run", [False, True])
def test_nothing_in_a_summary_is_markup_but_ours_and_nothing_is_secret(dry_run):
    step = hostile(FAILED)
    text = as_summary(report(step, dry_run=dry_run, config=HOSTILE))
    plain = as_summary(report(replace(FAILED, result={"written_bytes": 1}), dry_run=dry_run))
    assert text.count("\n") == plain.count("\n")
    assert all(len(row) == len(rows(text)[0]) for row in rows(text))
    assert not set("`[]\\~$\x1b\x00") & set(text)
    assert not re.findall(r"<(?!/?code>)", text)
    assert "c2VjcmV0" not in text and MARK.strip("[]") in text
    text.encode()


def test_a_summary_has_an_end():
    steps = [replace(FAILED, id=f"s{number}", error="e" * 20_000) for number in range(1000)]
    assert len(as_summary(report(*steps))) < 1 << 20  # what GitHub takes
    assert "And 500 steps more" in as_summary(report(*steps))


def test_problems_of_a_config_are_a_list():
    error = ConfigError(["steps[0].base: is missing", f"x: {HOSTILE}"], where="r.json")
    lines = summarise_problems(error).splitlines()
    assert lines[:3] == ["### r.json: 2 problems", "", "- steps&#91;0&#93;.base: is missing"]
    assert len(lines) == 4


# -- events ---------------------------------------------------------------------------------------------


def test_events_are_lines_of_json_with_the_time():
    events = [
        RunStarted("r.json", ["delta"], False),
        StepStarted("delta", "compute"),
        StepEnded(DONE),
        RunEnded(report(DONE, FAILED)),
    ]
    found = [json.loads(as_line(event)) for event in events]
    assert [event["event"] for event in found] == [
        "run_started", "step_started", "step_ended", "run_ended",
    ]  # fmt: skip
    assert all(re.fullmatch(r"[\d-]+T[\d:.]+\+00:00", event["time"]) for event in found)
    assert found[0]["steps"] == ["delta"]
    assert (found[2]["status"], found[2]["result"]["output"]) == ("done", "d.safetensors")
    assert (found[3]["ok"], found[3]["exit_code"], found[3]["steps"]) == (
        False, 3, {"done": 1, "failed": 1},
    )  # fmt: skip


def test_events_hold_no_secrets_and_are_one_line():
    line = as_line(StepEnded(hostile(FAILED)))
    assert "\n" not in line and "c2VjcmV0" not in line


# -- exit codes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "code"),
    [
        ((DONE, FRESH), 0),
        ((PLANNED, WAITING), 0),
        ((DONE, FAILED, SKIPPED), 3),
        ((replace(FAILED, exit_code=5), SKIPPED), 5),
        ((replace(FAILED, exit_code=5), FAILED), 3),
        ((BUG,), 3),
        ((DONE, replace(FAILED, exit_code=130), replace(SKIPPED, exit_code=130)), 130),
        ((FAILED, replace(SKIPPED, exit_code=130)), 130),
    ],
    ids=str,
)
def test_a_report_has_one_exit_code(steps, code):
    assert report(*steps).exit_code == code
