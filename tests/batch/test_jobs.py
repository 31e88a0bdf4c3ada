"""Independent steps run at once, out of one budget; how they end does not depend on it."""

import threading
from pathlib import Path

import pytest
from batch.chains import CHAIN, apply, compute, files, run, statuses

from pipeline.batch.engines import LocalEngine
from pipeline.errors import UsageError

pytestmark = pytest.mark.usefixtures("family")

MIB = 1 << 20
FOUR = [compute(f"d{number}") for number in range(4)]


class Watching(LocalEngine):
    """This process, which notes what steps are given, and how many are under way at once."""

    def __init__(self, meets: int = 1) -> None:
        self.given = []
        self.most = self._now = 0
        self._lock = threading.Lock()
        self._meeting = threading.Barrier(meets, timeout=30)

    def perform(self, spec, *, limits, progress):
        with self._lock:
            self.given.append(limits)
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            self._meeting.wait()
            return super().perform(spec, limits=limits, progress=progress)
        finally:
            with self._lock:
                self._now -= 1


def test_so_many_steps_run_at_once_and_no_more():
    engine = Watching(meets=2)  # which would not come about, were they one after the other
    assert run(*FOUR, jobs=2, engine=engine).ok
    assert engine.most == 2


@pytest.mark.parametrize("jobs", [1, 2, 4])
def test_memory_and_threads_are_one_budget(jobs):
    engine = Watching()
    assert run(*FOUR, jobs=jobs, engine=engine, memory="256MiB", workers=3).ok
    assert {limits.memory_bytes for limits in engine.given} == {256 * MIB // jobs}
    assert len({id(limits.turns) for limits in engine.given}) == 1  # at computing they take turns
    assert {limits.workers for limits in engine.given} == {3}


def test_a_step_waits_for_what_it_needs_however_many_may_run():
    steps = (apply("second", "@late", base="@first"), apply("first", "@late"), compute("late"))
    report = run(*steps, jobs=4)
    assert set(statuses(report).values()) == {"done"}
    assert [step.id for step in report.steps] == ["late", "first", "second"]


def test_the_results_are_the_same_bytes():
    steps = (*CHAIN, compute("code", post="./code-v1"), apply("other", "@code"))
    assert run(*steps).ok
    wanted = {path: data for path, data in files().items() if path.parts[0] in ("out", "store")}
    assert run(*steps, jobs=4, force=True, overwrite=True).ok
    assert wanted.items() <= files().items()


def test_a_failure_stops_only_those_that_need_it_or_begins_no_more():
    steps = (compute("bad", base="./nothing"), *FOUR, apply("late", "@bad"))
    report = run(*steps, jobs=2)
    assert statuses(report) == {
        "bad": "failed", **{step["id"]: "done" for step in FOUR}, "late": "skipped",
    }  # fmt: skip
    report = run(compute("worse", base="./nothing"), compute("never"), keep_going=False)
    assert statuses(report) == {"worse": "failed", "never": "skipped"}
    assert report.steps[1].error == "the run ended when 'worse' failed"
    assert not Path("store/never.delta").exists()


def test_no_jobs_at_all_can_do_nothing():
    with pytest.raises(UsageError, match="0 jobs can do nothing"):
        run(*CHAIN, jobs=0)
