"""Steps that show: analyze, page and sweep, each a pure function of what it reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from batch.chains import CHAIN, run, statuses
from batch.configs import problems
from conftest import ROOT
from quality.evaluations import evaluation, write

FIGURES = {"model": {"task:copy": (0.6, 0.03)}, "base": {"task:copy": (0.5, 0.04)}}
DELTA = {**CHAIN[0], "output": "delta.safetensors"}
MODEL = CHAIN[1]
ANALYZE = {
    "id": "anatomy", "run": "analyze", "deltas": ["@delta"], "plots": "svg", "sketch": 8,
    "output": "out/anatomy",
}  # fmt: skip
PAGE = {
    "id": "page", "run": "page", "reports": ["@delta", "@model", "@anatomy", "report.json"],
    "title": "Everything", "output": "out/page",
}  # fmt: skip


def index() -> str:
    return Path("out/page/index.html").read_text()


def test_an_analysis_and_a_page_end_a_batch_and_are_then_up_to_date(family):
    write("report.json", evaluation(**FIGURES))
    planned = run(DELTA, MODEL, ANALYZE, PAGE, dry_run=True)
    assert planned.ok and not Path("out").exists()
    assert planned.steps[3].waits_for == ("delta", "model", "anatomy")
    report = run(DELTA, MODEL, ANALYZE, PAGE)
    assert report.ok, [step.error for step in report.steps]
    assert Path("out/anatomy/plots/modules.svg").exists()
    assert "Everything" in index() and "copy" in index() and "data:image/svg" in index()
    page = Path("out/page/index.html").read_bytes()
    assert set(statuses(run(DELTA, MODEL, ANALYZE, PAGE)).values()) == {"fresh"}
    shutil.rmtree("reports")  # nothing is kept but in what was written
    assert {statuses(run(DELTA, MODEL, ANALYZE, PAGE))[name] for name in ("anatomy", "page")} == {
        "fresh"
    }
    shutil.rmtree("out/page")
    assert statuses(run(DELTA, MODEL, ANALYZE, PAGE))["page"] == "done"
    assert Path("out/page/index.html").read_bytes() == page  # a pure function of what it reads


def test_a_page_is_made_again_when_a_report_says_something_else(family):
    write("report.json", evaluation(**FIGURES))
    run(DELTA, MODEL, ANALYZE, PAGE)
    write("report.json", evaluation(model={"task:copy": (0.7, 0.03)}, base=FIGURES["base"]))
    refused = run(DELTA, MODEL, ANALYZE, PAGE)
    assert "already exists" in refused.steps[3].error
    planned = run(DELTA, MODEL, ANALYZE, PAGE, dry_run=True)
    assert "says something else, and is in the way" in planned.steps[3].error
    again = run(DELTA, MODEL, ANALYZE, PAGE, more={"defaults": {"overwrite": True}})
    assert statuses(again) == {"delta": "fresh", "model": "fresh", "anatomy": "fresh", "page": "done"}


@pytest.mark.parametrize(
    "change",
    [{"plots": "none"}, {"base": "./base-v1"}, {"evaluation": ["report.json=0.5"]}],
    ids=str,
)  # fmt: skip
def test_an_analysis_of_other_options_is_another(family, change):
    write("report.json", evaluation(**FIGURES))
    run(DELTA, ANALYZE)
    more = {"defaults": {"overwrite": True}}
    assert statuses(run(DELTA, {**ANALYZE, **change}, more=more))["anatomy"] == "done"
    assert statuses(run(DELTA, {**ANALYZE, **change}, more=more))["anatomy"] == "fresh"
    Path("out/anatomy/analysis.json").write_text("{}")
    planned = run(DELTA, {**ANALYZE, **change}, more=more, dry_run=True)
    assert planned.steps[1].reason == "what is there is no analysis that can be read"


def test_an_analysis_of_another_delta_is_another(family):
    run(DELTA, ANALYZE)
    other = {**DELTA, "post": "./code-v1", "overwrite": True}
    assert "already exists" in run(other, ANALYZE).steps[1].error
    assert statuses(run(other, {**ANALYZE, "overwrite": True}))["anatomy"] == "done"


# -- sweep ---------------------------------------------------------------------------------------------

FAMILY = ROOT / "examples" / "family"
SWEEP = {
    "id": "scales", "run": "sweep", "base": str(FAMILY / "base-v2"), "deltas": ["@delta"],
    "scales": [0, 1], "data": ["tasks.jsonl"], "metrics": ["task"], "batch_size": 64, "plots": "none",
    "cache": "cache", "output": "out/scales",
}  # fmt: skip


def test_a_sweep_is_a_step_that_is_done_once(folder):
    lines = (FAMILY / "heldout" / "tasks.jsonl").read_text().splitlines(keepends=True)
    Path("tasks.jsonl").write_text("".join(lines[:8]))
    delta = {**DELTA, "base": str(FAMILY / "base-v1"), "post": str(FAMILY / "post-v1")}
    planned = run(delta, SWEEP, dry_run=True)
    assert planned.ok and planned.steps[1].waits_for == ("delta",)
    report = run(delta, SWEEP)
    assert report.ok, [step.error for step in report.steps]
    result = report.steps[1].result
    assert [point["made"] for point in result["points"]] == [False, True]
    assert result["points"][1]["figures"]["task.mean"]["value"] > 0.8
    assert json.loads(Path("out/scales/sweep.json").read_text())["best"] == result["best"]
    assert statuses(run(delta, SWEEP)) == {"delta": "fresh", "scales": "fresh"}
    more = {"defaults": {"overwrite": True}}
    planned = run(delta, {**SWEEP, "scales": [0, 0.5, 1]}, more=more, dry_run=True)
    assert planned.steps[1].reason == "what is there has other scales"
    assert planned.steps[1].result["disk_bytes"] > 0
    wider = run(delta, {**SWEEP, "scales": [0, 0.5, 1]}, more=more)
    assert [point["made"] for point in wider.steps[1].result["points"]] == [False, True, False]
    Path("tasks.jsonl").write_text("".join(lines[:7]))
    planned = run(delta, {**SWEEP, "scales": [0, 0.5, 1]}, more=more, dry_run=True)
    assert planned.steps[1].reason == "what is there is of other data, settings or versions"


# -- mistakes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("steps", "wanted"),
    [
        ([{**ANALYZE, "deltas": []}], "steps[0].deltas: should not be empty"),
        ([DELTA, {**ANALYZE, "plots": "gif"}], "steps[1].plots: should be svg, png"),
        ([DELTA, {**ANALYZE, "deltas": ["@anatomy"]}], "steps[1].deltas[0]: is this step itself"),
        (
            [DELTA, ANALYZE, {**PAGE, "reports": ["@anatomy"]},
             {**ANALYZE, "id": "b", "deltas": ["@page"], "output": "b"}],
            "steps[3].deltas[0]: 'page' makes a page, but a delta is wanted here",
        ),
        (
            [DELTA, {**ANALYZE, "evaluation": ["@delta=0.5"]}],
            "steps[1].evaluation[0]: 'delta' makes a delta, but an evaluation is wanted here",
        ),
        ([DELTA, {**ANALYZE, "evaluation": ["e.json=x"]}], "steps[1].evaluation[0]: 'x' is not a scale"),
        ([{**PAGE, "reports": []}], "steps[0].reports: should not be empty"),
        ([{**PAGE, "reports": ["@nobody"]}], "steps[0].reports[0]: no step is called 'nobody'"),
        (
            [DELTA, SWEEP, {**PAGE, "reports": ["@scales"]}],
            "steps[2].reports[0]: 'scales' makes a sweep, which no page shows",
        ),
        ([DELTA, {**SWEEP, "data": []}], "steps[1]: there is nothing to measure on"),
        ([DELTA, {**SWEEP, "scales": []}], "steps[1].scales: should not be empty"),
        ([DELTA, {**SWEEP, "output": "delta.safetensors", "deltas": ["./x.safetensors"]},
          {**ANALYZE, "output": "delta.safetensors", "deltas": ["@delta"]}],
         "steps[2].output: is also steps[1]'s"),
        (
            [CHAIN[0], {**PAGE, "reports": ["@delta"]}],
            "steps[1].reports[0]: 'delta' writes a delta that no name ending tells of",
        ),
    ],
    ids=str,
)  # fmt: skip
def test_mistakes_are_named_with_their_places(steps, wanted):
    found = problems({"steps": steps})
    assert any(text.startswith(wanted) for text in found), found
