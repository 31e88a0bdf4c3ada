"""Reports of every kind, as the commands write them, and anything else: taken for what it is."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import pytest
from analysis.pages import delta, evaluation, release, tensor
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.analysis.page.build import build_page
from pipeline.analysis.page.facts import Delta, Evidence, Model
from pipeline.analysis.page.merging import merge
from pipeline.analysis.page.reading import take
from pipeline.errors import CorruptFile
from pipeline.operations.compute import ComputeReport
from pipeline.operations.outputs.report import ANOTHER_BASE, ApplyReport
from pipeline.operations.verify import VerifyReport
from pipeline.quality.conditions import parse_condition
from pipeline.quality.gate import judge
from pipeline.quality.verdict import Verdict

DELTA = "d.safetensors"
COMPUTED = asdict(
    ComputeReport(DELTA, "base", "post", False, 3, 100, 1, 50, "d" * 64, "a" * 64, "b" * 64, 90, 5, 1)
)
APPLIED = asdict(
    ApplyReport("out", "new", [(DELTA, 0.5)], False, ANOTHER_BASE, 3, 100, 1, 50, ["x"], "e" * 64)
)
VERIFIED = asdict(VerifyReport(DELTA, "delta", 3, 50, "d" * 64, "base", "post", True))


def taken(report: Any) -> tuple[str | None, Evidence]:
    """What a report is, after a way through JSON, and what it says."""
    found = Evidence()
    return take(found, json.loads(json.dumps(report)), where="report"), found


def test_reports_of_commands_are_told_by_their_keys() -> None:
    kind, found = taken(COMPUTED)
    (made,) = found.deltas
    assert kind == "report of compute"
    assert (made.base, made.changed, made.share) == (Model("base", "a" * 64), 90, 0.9)
    kind, found = taken(APPLIED)
    assert kind == "report of apply"
    assert [(part.scale, part.delta.location) for part in found.releases[0].parts] == [(0.5, DELTA)]
    kind, found = taken({**APPLIED, "addend_fingerprints": [{"delta": "d" * 64}]})
    assert found.releases[0].parts[0].delta == Model(DELTA, "d" * 64)
    kind, found = taken(VERIFIED)
    assert (kind, found.checks[0].restores_post) == ("report of verify", True)


def test_a_batch_is_its_steps_and_the_reports_in_them() -> None:
    steps = [
        {"id": "d", "run": "compute", "status": "done", "seconds": 1, "result": COMPUTED},
        {"id": "r", "run": "apply", "status": "fresh", "seconds": 0, "result": APPLIED},
        {"id": "s", "run": "apply", "status": "skipped", "error": "d failed", "result": APPLIED},
    ]
    kind, found = taken({"ok": True, "config_digest": "x", "steps": steps})
    assert kind == "batch report"
    assert (len(found.deltas), len(found.releases)) == (1, 1)
    assert [(step.status, step.note) for step in found.runs[0].steps][2] == ("skipped", "d failed")


def test_a_dry_run_made_nothing() -> None:
    kind, found = taken({**COMPUTED, "dry_run": True})
    assert kind == "dry run" and not found.deltas


def test_an_evaluation_and_a_verdict_on_it() -> None:
    judged = evaluation(model={"task:a": 0.5}, base={"task:a": 0.2})
    kind, found = taken(json.loads(judged.to_json()))
    assert (kind, found.evaluations) == ("evaluation", [judged])
    texts = ["task:a >= base", "task:a >= 0.9"]
    verdict = Verdict("r", "0" * 64, "m", "1" * 64, texts, judge(judged, map(parse_condition, texts)))
    kind, found = taken(json.loads(verdict.to_json()))
    assert kind == "gate verdict" and not found.verdicts[0].passed
    conditions = found.verdicts[0].conditions
    assert [(each.left, each.comparison, each.right, each.passed) for each in conditions] == [
        (0.5, ">=", 0.2, True),
        (0.5, ">=", 0.9, False),
    ]


def test_a_verdict_that_says_it_passed_does_not_if_a_judgement_did_not() -> None:
    said = {"format": "paramdelta-gate/1", "passed": True}
    for judgements in ([], [{"passed": False}], [{"passed": "true"}], [{}], "x"):
        assert not taken({**said, "judgements": judgements})[1].verdicts[0].passed


def test_what_is_no_report_of_ours_has_no_kind() -> None:
    for other in (None, 3, "x", [], [[]], {}, {"format": "other/1"}, {"steps": 1}):
        assert taken(other)[0] is None
    with pytest.raises(CorruptFile):
        taken({"format": "paramdelta-evaluation/1"})


def test_a_report_and_a_manifest_of_one_delta_are_one() -> None:
    short = Delta(Model("d.safetensors", "d" * 64), Model("base"), pushed="https://a.b/c")
    ranked = Delta(Model(None, "d" * 64), tensors=[tensor("w", 0.1, rank=3.5, remainders=None)])
    full = delta(tensors=[tensor("w", 0.1)])
    (joined,) = merge(Evidence(deltas=[short, full, ranked])).deltas
    assert joined.pushed and joined.changed == full.changed
    assert [(each.rank, each.remainders) for each in joined.tensors] == [(3.5, 1)]
    assert len(merge(Evidence(deltas=[full, Delta(Model("elsewhere", "f" * 64))])).deltas) == 2


KEYS = sorted(
    {*COMPUTED, *APPLIED, *VERIFIED, "steps", "config_digest", "result", "judgements", "format"}
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
values = st.recursive(
    scalars | st.sampled_from(["paramdelta-gate/1", "paramdelta-analysis/1", "done"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=9)
    ),
    max_leaves=12,
)
reports = st.sampled_from([COMPUTED, APPLIED, VERIFIED, {"steps": [], "config_digest": ""}])
changes = st.dictionaries(st.sampled_from(KEYS), values, max_size=6)


@settings(max_examples=40, deadline=None)
@given(reports, changes)
def test_reports_with_anything_in_them_make_a_page(report: dict[str, Any], new: dict[str, Any]) -> None:
    found = Evidence(releases=[release()])
    try:
        take(found, {**report, **new}, where="report")
    except CorruptFile:
        return
    assert build_page(found).startswith(b"<!doctype html>")
