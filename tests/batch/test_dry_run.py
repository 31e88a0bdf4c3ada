"""A dry run of a config says what would be done or fail, and writes nothing."""

from pathlib import Path

import pytest
from batch.chains import CHAIN, apply, compute, files, run, statuses
from models import layered_state, write_model

from pipeline.storage.azure.reading import AzureReader
from pipeline.storage.azure.writing import AzureWriter

MIB = 1 << 20
HEADERS = 4 * MIB  # looked at several times, and probes; beside models that are not so small: nothing

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
    assert (model.status, model.waits_for) == ("planned", ("delta",))
    assert model.result["read_bytes"] > 0


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


def test_what_will_not_fit_is_seen_before_anything_is_made(states):
    other = {**states["base-v2"], "extra.weight": next(iter(states["base-v2"].values())).clone()}
    write_model(Path("base-v3"), other)
    steps = (*CHAIN, apply("late", "@delta", base="./base-v3"), apply("later", "@delta", base="@late"))
    report = run(*steps, dry_run=True)
    assert [step.status for step in report.steps] == ["planned", "planned", "failed", "skipped"]
    assert "extra.weight is only in the new base" in report.steps[2].error


@pytest.fixture
def moved(monkeypatch):
    """Bytes that really go over the network: read from blobs, and staged."""
    moved = {"download_bytes": 0, "upload_bytes": 0}
    read_into, stage = AzureReader.read_into, AzureWriter._stage

    def reading(self, offset, buffer):
        moved["download_bytes"] += len(buffer)
        read_into(self, offset, buffer)

    def staging(self, block, view, digest):
        moved["upload_bytes"] += len(view)
        stage(self, block, view, digest)

    monkeypatch.setattr(AzureReader, "read_into", reading)
    monkeypatch.setattr(AzureWriter, "_stage", staging)
    return moved


def test_estimates_are_what_is_moved_then(cloud, moved):
    """Within 5 %, however much is there already; what a packed delta takes is known to be at most so."""
    state = layered_state(6, 4 * MIB, 0)
    for name, factor in (("base-v1", 1), ("post-v1", 1.01), ("base-v2", 0.98)):
        write_model(Path(name), {key: tensor * factor for key, tensor in state.items()})
        cloud.upload(Path(name), name)
    place = {name: f"{cloud.location}/{name}" for name in ("base-v1", "post-v1", "base-v2", "m", "d")}
    delta = compute("d", place["base-v1"], place["post-v1"], codec="none", output=place["d"])
    steps = (delta, {**apply("m", "@d", base=place["base-v2"]), "output": place["m"]})
    plan = run(*steps, dry_run=True)
    for number, step in enumerate(plan.steps):
        moved.update(download_bytes=0, upload_bytes=0)
        done = run(*steps[: number + 1])
        assert [each.status for each in done.steps] == ["fresh"] * number + ["done"]
        for name, nbytes in moved.items():
            assert step.result[name] == pytest.approx(nbytes, rel=0.05, abs=HEADERS), (step.id, name)
    packed = run({**delta, "codec": "rans", "output": f"{place['d']}-packed"}, dry_run=True).steps[0]
    moved.update(upload_bytes=0)
    assert run({**delta, "codec": "rans", "output": f"{place['d']}-packed"}).ok
    assert 0 < moved["upload_bytes"] <= packed.result["upload_bytes"]
