"""A step that fails stops only those that need it, and the report says what each step did."""

import json
from contextlib import contextmanager
from pathlib import Path

import pytest
from batch.chains import CHAIN, apply, assert_same, compute, files, run, statuses, transferred
from blake3 import blake3
from models import read_model

from pipeline.batch.events import StepEnded
from pipeline.batch.report import BatchReport, StepResult
from pipeline.errors import PipelineError
from pipeline.version import TOOL

pytestmark = pytest.mark.usefixtures("family")


def test_a_failed_step_stops_only_those_that_need_it(states):
    report = run(
        compute("bad", base="./nothing"),
        apply("first", "@bad"),
        apply("second", "@good", base="@first"),
        compute("good"),
        apply("fine", "@good"),
    )
    assert not report.ok
    assert statuses(report) == {
        "bad": "failed",
        "first": "skipped",
        "good": "done",
        "second": "skipped",
        "fine": "done",
    }
    by_id = {step.id: step for step in report.steps}
    assert by_id["bad"].error.startswith("nothing: no such folder")
    assert by_id["first"].error == "needs 'bad', which failed"
    assert by_id["second"].error == "needs 'first', which was skipped"
    assert [step.exit_code for step in report.steps] == [3, 3, 0, 3, 0]
    assert_same(read_model(Path("out/fine")), transferred(states, (1.0, "post-v1")))
    assert not Path("out/first").exists()


def test_what_is_in_the_way_is_kept_unless_overwriting_is_asked_for():
    assert run(*CHAIN).ok
    before = {path: data for path, data in files().items() if path.parts[0] in ("out", "store")}
    other = compute("delta", codec="none")
    report = run(other, CHAIN[1])
    assert statuses(report) == {"delta": "failed", "model": "skipped"}
    assert "already exists" in report.steps[0].error
    assert before.items() <= files().items()
    assert statuses(run(other, CHAIN[1], overwrite=True)) == {"delta": "done", "model": "fresh"}
    again = {"defaults": {"overwrite": True}}
    assert not run(*CHAIN, more=again, overwrite=False).ok
    assert run(*CHAIN, more=again).ok


def broken(error):
    """A progress that raises, standing for a bug or an interrupt in the middle of a step."""

    @contextmanager
    def progress(title, total):
        if title == "compute delta.delta":
            raise error
        yield lambda nbytes: None

    return progress


def test_a_bug_fails_its_step_and_is_told_as_one():
    report = run(*CHAIN, compute("other"), progress=broken(RuntimeError("odd")))
    assert statuses(report) == {"delta": "failed", "model": "skipped", "other": "done"}
    assert report.steps[0].error.startswith(
        "a bug in this tool: RuntimeError: odd (test_failures.py, line "
    )
    assert report.steps[0].exit_code == 1


def test_an_interrupt_passes_through_after_the_report_is_written():
    with pytest.raises(KeyboardInterrupt):
        run(compute("other"), *CHAIN, progress=broken(KeyboardInterrupt()))
    report = json.loads(Path("reports/release.json").read_text())
    assert not report["ok"]
    assert [(step["id"], step["status"], step["exit_code"]) for step in report["steps"]] == [
        ("other", "done", 0),
        ("delta", "failed", 130),
        ("model", "skipped", 130),
    ]
    assert report["steps"][1]["error"] == "interrupted"
    assert not Path("store/delta.delta").exists()


def test_each_step_is_told_of_as_it_ends():
    seen = []
    report = run(
        compute("bad", base="./nothing"), apply("first", "@bad"), compute("good"), on_event=seen.append
    )
    assert [event.step for event in seen if isinstance(event, StepEnded)] == report.steps


def test_the_report_says_what_each_step_did():
    report = run(*CHAIN)
    written = json.loads(Path("reports/release.json").read_text())
    assert written == json.loads(report.to_json())
    assert written["ok"] is True
    assert written["config"] == "release.json"
    assert written["config_digest"] == blake3(Path("release.json").read_bytes()).hexdigest()
    assert written["tool"] == TOOL
    assert written["started"].endswith("+00:00")
    delta, model = written["steps"]
    assert (delta["run"], delta["error"], delta["result"]["output"]) == ("compute", None, "delta.delta")
    assert model["result"]["deltas"] == [["delta.delta", 1.0]]
    assert model["result"]["base"] == "./base-v2"
    assert len(model["result"]["fingerprint"]) == 64
    assert written["seconds"] >= max(delta["seconds"], model["seconds"]) > 0


def test_the_report_goes_where_the_config_says_and_replaces_the_last_one():
    more = {"report": "./logs/last run.json"}
    assert run(*CHAIN, more=more).ok
    assert not run(compute("delta", base="./nothing"), more=more).ok
    assert [path.name for path in Path("logs").iterdir()] == ["last run.json"]
    assert json.loads(Path("logs/last run.json").read_text())["ok"] is False
    assert not Path("reports").exists()


def test_a_report_that_can_not_be_written_stops_the_run_before_any_work():
    Path("logs").write_text("a file, not a folder")
    with pytest.raises(PipelineError, match="logs"):
        run(*CHAIN, more={"report": "./logs/report.json"})
    assert not Path("store").exists()


def test_a_report_is_ok_only_if_no_step_failed_or_was_skipped():
    def ok(*found):
        steps = [StepResult("s", "compute", status) for status in found]
        return BatchReport(None, "", "", 0.0, False, steps).ok

    assert ok("done", "planned")
    assert not ok("done", "failed")
    assert not ok("done", "skipped")
