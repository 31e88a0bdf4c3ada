"""A dry run of a config says what would be done or fail, and writes nothing."""

from pathlib import Path

import pytest
from batch.chains import CHAIN, apply, compute, files, run, statuses

pytestmark = pytest.mark.usefixtures("family")


def test_a_dry_run_writes_nothing():
    before = files()
    report = run(*CHAIN, dry_run=True)
    after = files()
    del after[Path("release.json")]
    assert after == before
    assert report.ok
    assert report.dry_run


def test_a_dry_run_plans_each_step_or_says_what_it_waits_for():
    delta, model = run(*CHAIN, dry_run=True).steps
    assert (delta.status, delta.waits_for) == ("planned", ())
    assert delta.result["dry_run"] is True
    assert delta.result["read_bytes"] > 0
    assert (model.status, model.waits_for, model.result) == ("planned", ("delta",), None)


def test_a_dry_run_plans_from_outputs_that_are_there():
    run(*CHAIN)
    report = run(*CHAIN, apply("late", "@delta"), dry_run=True)
    assert statuses(report) == {"delta": "fresh", "model": "fresh", "late": "planned"}
    assert [step.waits_for for step in report.steps] == [(), (), ()]
    assert report.steps[2].reason == "nothing is there yet"
    assert report.steps[2].result["written_bytes"] > 0


def test_a_dry_run_finds_what_would_fail():
    run(CHAIN[0])
    other = compute("delta", codec="none")
    report = run(other, *CHAIN[1:], apply("late", "@delta"), dry_run=True)
    assert statuses(report) == {"delta": "failed", "model": "skipped", "late": "skipped"}
    assert report.steps[0].error.startswith("delta.delta: is packed by rans, and is in the way (say ")


def test_what_would_be_written_anew_changes_what_needs_it():
    run(*CHAIN)
    delta, model = run(compute("delta", codec="none"), CHAIN[1], dry_run=True, overwrite=True).steps
    assert (delta.status, delta.reason) == ("planned", "what is there is packed by rans")
    assert (model.status, model.waits_for) == ("planned", ("delta",))


def test_a_dry_run_looks_at_the_other_inputs_and_the_output_of_a_step_that_waits():
    Path("out/taken").mkdir(parents=True)
    Path("out/taken/file").touch()
    report = run(
        CHAIN[0],
        apply("lost", "@delta", base="./nothing"),
        apply("absent", "@delta", "absent.delta"),
        apply("taken", "@delta"),
        apply("fine", "@delta"),
        dry_run=True,
    )
    assert list(statuses(report).values()) == ["planned", "failed", "failed", "failed", "planned"]
    reasons = [step.error for step in report.steps[1:4]]
    assert reasons[0].startswith("nothing: no such folder")
    assert "absent.delta" in reasons[1]
    assert reasons[2].startswith("out/taken: already exists")
