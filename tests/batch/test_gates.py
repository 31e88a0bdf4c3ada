"""Gates in a batch: what they refuse stops what needs it, and only what passed gets its final name."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from batch.chains import CHAIN, apply, run, statuses
from batch.configs import problems
from quality.evaluations import evaluation, write

from pipeline.batch.junit import as_junit
from pipeline.batch.summary import as_summary
from pipeline.commands.endings import judge_steps
from pipeline.errors import Refused, StepFailed
from pipeline.quality.verdict import Verdict

FIGURES = {"model": {"task:copy": (0.6, 0.03)}, "base": {"task:copy": (0.5, 0.04)}}
GOOD, BAD = "every task >= base - 2se", "task:copy >= 0.9"


def gate(*require: str, name: str = "gate", **more: object) -> dict[str, object]:
    return {
        "id": name, "run": "gate", "of": "report.json", "require": list(require),
        "output": f"evidence/{name}.json", **more,
    }  # fmt: skip


PUBLISH = {
    "id": "release", "run": "publish", "source": "@model", "gates": ["@gate"], "output": "final/chat",
}  # fmt: skip


@pytest.fixture
def candidate(family: Path) -> str:
    """A model that was made and measured; its fingerprint."""
    report = run(*CHAIN)
    assert report.ok
    fingerprint = str(report.steps[1].result["fingerprint"])
    write("report.json", evaluation(location="./out/model", fingerprint=fingerprint, **FIGURES))
    return fingerprint


def weights(name: str) -> bytes:
    return Path(name, "model.safetensors").read_bytes()


def test_what_passes_its_gates_gets_its_name_and_is_then_up_to_date(candidate):
    report = run(*CHAIN, gate(GOOD), PUBLISH)
    assert statuses(report) == {"delta": "fresh", "model": "fresh", "gate": "done", "release": "done"}
    assert weights("final/chat") == weights("out/model")
    verdict = Verdict.from_json(Path("evidence/gate.json").read_text(), where="")
    assert verdict.passed and verdict.fingerprint == candidate
    result = report.steps[3].result
    assert result["fingerprint"] == candidate and result["gates"] == ("evidence/gate.json",)
    assert set(statuses(run(*CHAIN, gate(GOOD), PUBLISH)).values()) == {"fresh"}


def test_a_refusal_stops_what_needs_it_and_nothing_gets_the_name(candidate):
    steps = (*CHAIN, gate(GOOD, BAD), PUBLISH, apply("other", "@delta"))
    for _ in range(2):  # said again, every time
        report = run(*steps)
        by_id = {step.id: step for step in report.steps}
        assert (by_id["gate"].status, by_id["gate"].exit_code) == ("failed", 4)
        assert by_id["gate"].error == "refused: task:copy >= 0.9: 0.6 is not >= 0.9"
        assert by_id["release"].status == "skipped"
        assert by_id["release"].error == "needs 'gate', which refused"
        assert by_id["other"].status in ("done", "fresh")
        assert report.exit_code == 4
        with pytest.raises(Refused, match="refused: gate"):
            judge_steps(report)
    assert not Path("final").exists()
    assert json.loads(Path("evidence/gate.json").read_text())["passed"] is False
    planned = run(*steps, dry_run=True)
    assert planned.exit_code == 4 and statuses(planned)["release"] == "skipped"


def test_beside_another_failure_a_refusal_is_only_a_failed_step(candidate):
    report = run(*CHAIN, gate(BAD), apply("broken", "@delta", base="./nothing"))
    assert report.exit_code == 3
    with pytest.raises(StepFailed):
        judge_steps(report)


def test_one_gate_that_refuses_is_enough(candidate):
    both = {**PUBLISH, "gates": ["@gate", "@strict"]}
    report = run(*CHAIN, gate(GOOD), gate(BAD, name="strict"), both)
    assert statuses(report)["gate"] == "done" and statuses(report)["release"] == "skipped"
    assert not Path("final").exists()


def test_a_verdict_by_other_conditions_than_the_config_s_publishes_nothing(candidate):
    assert run(*CHAIN, gate("task:copy >= 0.1")).ok
    report = run(*CHAIN, gate(GOOD), PUBLISH, only="release")
    assert report.exit_code == 4 and "judged by other conditions" in report.steps[0].error
    assert not Path("final").exists()


def test_a_verdict_on_another_model_publishes_nothing(candidate):
    write("report.json", evaluation(fingerprint="b" * 64, **FIGURES))
    report = run(*CHAIN, gate(GOOD), PUBLISH)
    assert statuses(report)["gate"] == "done"
    assert (report.steps[3].status, report.exit_code) == ("failed", 4)
    assert "judged another model" in report.steps[3].error
    assert not Path("final").exists()


def test_a_release_stays_when_a_later_candidate_is_refused(candidate):
    run(*CHAIN, gate(GOOD), PUBLISH)
    before = weights("final/chat")
    worse = {"defaults": {"overwrite": True}}
    report = run(CHAIN[0], apply("model", "@delta=-1"), gate(GOOD), PUBLISH, more=worse)
    assert statuses(report)["release"] == "failed"  # the verdict is of what was there before
    assert report.exit_code == 4
    report = run(CHAIN[0], apply("model", "@delta=-1"), gate(BAD), PUBLISH, more=worse)
    assert statuses(report)["release"] == "skipped"
    assert weights("final/chat") == before != weights("out/model")


def test_another_report_is_judged_anew_and_another_release_replaced_only_if_asked(candidate):
    run(*CHAIN, gate(GOOD), PUBLISH)
    better = {"model": {"task:copy": (0.7, 0.03)}, "base": FIGURES["base"]}
    write("report.json", evaluation(location="./out/model", fingerprint=candidate, **better))
    report = run(*CHAIN, gate(GOOD), PUBLISH)
    assert "already exists" in report.steps[2].error and statuses(report)["release"] == "skipped"
    planned = run(*CHAIN, gate(GOOD), PUBLISH, dry_run=True)
    assert "is of another report or of other conditions" in planned.steps[2].error
    more = {"defaults": {"overwrite": True}}
    report = run(*CHAIN, gate(GOOD), PUBLISH, more=more)
    assert statuses(report) == {"delta": "fresh", "model": "fresh", "gate": "done", "release": "fresh"}
    weights_of_final = Path("final/chat/model.safetensors")
    weights_of_final.write_bytes(weights_of_final.read_bytes() + b"\0")
    assert statuses(run(*CHAIN, gate(GOOD), PUBLISH))["release"] == "failed"
    assert statuses(run(*CHAIN, gate(GOOD), PUBLISH, more=more))["release"] == "done"
    assert weights("final/chat") == weights("out/model")


def test_a_delta_is_published_by_what_it_made(candidate):
    release = {**PUBLISH, "source": "@delta", "output": "released/chat.safetensors"}
    steps = ({**CHAIN[0], "output": "delta.safetensors"}, CHAIN[1], gate(GOOD), release)
    report = run(*steps)
    assert statuses(report)["release"] == "done"
    one, two = (Path("store", name).read_bytes() for name in ("delta.safetensors", release["output"]))
    assert one == two
    assert statuses(run(*steps))["release"] == "fresh"


def test_what_was_published_can_be_used_on(candidate):
    verify = {"id": "whole", "run": "verify", "target": "@release"}
    report = run(*CHAIN, gate(GOOD), PUBLISH, verify, apply("next", "@delta", base="@release"))
    assert report.ok and [step.id for step in report.steps][-2:] == ["whole", "next"]


def test_a_plan_says_what_will_be_moved(candidate):
    planned = run(*CHAIN, gate(GOOD), PUBLISH, dry_run=True)
    by_id = {step.id: step for step in planned.steps}
    assert by_id["gate"].status == "planned" and by_id["release"].waits_for == ("gate",)
    done = run(*CHAIN, gate(GOOD), PUBLISH)
    for name in ("read_bytes", "written_bytes", "upload_bytes"):
        assert by_id["release"].result[name] == done.steps[3].result[name]
    assert not run(*CHAIN, gate("task:cpoy > 0"), PUBLISH, dry_run=True).ok


def test_a_plan_from_nothing_foresees_the_release(family):
    write("report.json", evaluation(**FIGURES))
    planned = run(*CHAIN, gate(GOOD), PUBLISH, dry_run=True)
    by_id = {step.id: step for step in planned.steps}
    assert by_id["release"].waits_for == ("model", "gate")
    assert by_id["release"].result["written_bytes"] == by_id["model"].result["written_bytes"]
    assert not Path("evidence").exists() and not Path("final").exists()


def test_results_show_every_condition_with_both_values(candidate):
    report = run(*CHAIN, gate(GOOD, BAD), PUBLISH)
    (case,) = [each for each in ElementTree.fromstring(as_junit(report)).iter("testcase")
               if each.get("name") == "gate"]  # fmt: skip
    assert case.find("failure").get("message") == "refused: task:copy >= 0.9: 0.6 is not >= 0.9"
    told = case.find("system-out").text.splitlines()
    assert told[-2:] == [
        "passed: task:copy >= base - 2se: 0.6 is >= 0.4",
        "REFUSED: task:copy >= 0.9: 0.6 is not >= 0.9",
    ]
    shown = as_summary(report)
    assert "| **refused** | task:copy &#62;= 0.9 | 0.6 is not &#62;= 0.9 |" in shown
    assert "| passed | task:copy &#62;= base - 2se | 0.6 is &#62;= 0.4 |" in shown


def test_names_of_whoever_measured_are_text_in_a_summary(candidate):
    name = 'task:a|b`<script>"\n# x'.replace('"', "")
    hostile = {"model": {name: 0.5}, "base": {name: 0.6}}
    write("report.json", evaluation(fingerprint=candidate, **hostile))
    report = run(*CHAIN, gate("every task >= base"), PUBLISH)
    assert report.exit_code == 4
    shown = as_summary(report)
    assert "<script>" not in shown and "\n# x" not in shown and "a|b" not in shown
    assert "<script>" not in as_junit(report)


# -- mistakes -------------------------------------------------------------------------------------------

MEASURE = {"id": "m", "run": "evaluate", "model": "org/x", "data": ["d.jsonl"], "output": "./e.json"}
GATE = {"id": "g", "run": "gate", "of": "@m", "require": [GOOD], "output": "./v.json"}
RELEASE = {"id": "p", "run": "publish", "source": "./x", "gates": ["@g"], "output": "./final"}


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        ([{**GATE, "require": []}, MEASURE], "steps[0].require: should not be empty"),
        (
            [MEASURE, {**GATE, "require": [GOOD, "task:x >="]}],
            "steps[1].require[1]: line 1, column 10: it ends where there should be a figure",
        ),
        ([MEASURE, {**GATE, "require": ["tsk > 1"]}], "steps[1].require[0]: line 1, column 1: 'tsk'"),
        ([MEASURE, {**GATE, "of": "@n"}], "steps[1].of: no step is called 'n'"),
        ([MEASURE, GATE, {**RELEASE, "gates": []}], "steps[2].gates: should not be empty"),
        ([MEASURE, GATE, {**RELEASE, "gates": None}], "steps[2].gates: should be a list"),
        (
            [MEASURE, GATE, {**RELEASE, "gates": ["@m"]}],
            "steps[2].gates[0]: 'm' makes an evaluation, but a verdict is wanted here",
        ),
        (
            [MEASURE, GATE, {**RELEASE, "source": "@g"}],
            "steps[2].source: 'g' makes a verdict, but a delta or a model is wanted here",
        ),
        (
            [MEASURE, {**GATE, "of": "@p"}, RELEASE],
            "steps[1].of: 'p' makes a model, but an evaluation is wanted here",
        ),
        ([MEASURE, {**GATE, "of": "./e.json"}], 'steps[1].of: is what steps[0] writes: say so by "@m"'),
        ([MEASURE, {**GATE, "output": "./e.json"}], "steps[1].output: is also steps[0]'s"),
        ([MEASURE, GATE, {**RELEASE, "output": "./v.json"}], "steps[2].output: is also steps[1]'s"),
        ([{**MEASURE, "data": []}], "steps[0]: there is nothing to measure on: give data or lm_eval"),
        ([{**MEASURE, "model": "@x"}], "steps[0].model: no step is called 'x'"),
        ([{**MEASURE, "reference": "@m"}], "steps[0].reference: is this step itself"),
        ([{**MEASURE, "batch_size": 0}], "steps[0].batch_size: should be greater than or equal to 1"),
    ],
    ids=str,
)  # fmt: skip
def test_mistakes_are_named_with_their_places(steps, wanted):
    found = problems({"steps": steps})
    assert any(text.startswith(wanted) for text in found), found


def test_a_release_must_be_called_after_its_kind(family):
    delta = {**CHAIN[0], "output": "d.safetensors"}
    (found,) = problems({"steps": [delta, MEASURE, GATE, {**RELEASE, "source": "@delta"}]})
    assert found == (
        "steps[3].source: 'delta' makes a delta: a delta's output ends with .safetensors, no other does"
    )
