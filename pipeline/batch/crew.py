"""Steps in the order of their needs, several at once, until all have ended or the run is stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

from pipeline.batch.events import OnEvent, StepEnded, StepStarted, unheard
from pipeline.batch.record import Record
from pipeline.batch.report import StepResult
from pipeline.batch.specification import Specification
from pipeline.batch.step import skipped, stopped
from pipeline.errors import Refused
from pipeline.progress import Advance, Progressing


@dataclass
class Crew:
    """A run of `order`, each step after those of `needs` that are in it.

    run_step: does one. tell: hears of each step's begin and end. keep_going: whether steps that need
    nothing of a failed one are still begun. stop: set once nothing is to be begun or gone on with.
    """

    order: Sequence[str]
    needs: Mapping[str, Sequence[str]]
    specs: Mapping[str, Specification]
    run_step: Callable[[Specification], StepResult]
    record: Record
    stop: threading.Event
    tell: OnEvent = unheard
    keep_going: bool = True
    _unfinished: dict[str, str] = field(default_factory=dict, init=False)
    _begun: set[str] = field(default_factory=set, init=False)

    def run(self, jobs: int) -> None:
        """Run all, `jobs` at once. What is no `Exception` passes through, once what runs has stopped."""
        running: dict[Future[StepResult], str] = {}
        waiting = list(self.order)
        with ThreadPoolExecutor(jobs, thread_name_prefix="step") as pool:
            try:
                while waiting or running:
                    for name in self._ready(waiting, running.values()):
                        if len(running) >= jobs:
                            break
                        waiting.remove(name)
                        if not self._skips(name):
                            self._begun.add(name)
                            self.tell(StepStarted(name, self.specs[name].run))
                            running[pool.submit(self.run_step, self.specs[name])] = name
                    ended, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        del running[future]
                        self._take(future.result())
            except BaseException as error:
                self.stop.set()
                self._note_stopped(error)
                raise

    def _ready(self, waiting: Sequence[str], running: Iterable[str]) -> list[str]:
        """The steps that wait for nobody, in order."""
        open_steps = {*waiting, *running}
        return [
            name
            for name in waiting
            if not open_steps.intersection(self.needs[name]) or self._blocked(name)
        ]

    def _blocked(self, name: str) -> bool:
        return any(need in self._unfinished for need in self.needs[name])

    def _skips(self, name: str) -> bool:
        """Whether a step can't run or is not to, and says so."""
        for need in self.needs[name]:
            if how := self._unfinished.get(need):
                self._take(skipped(self.specs[name], need, how))
                return True
        if self._unfinished and not self.keep_going:
            first = next(iter(self._unfinished))
            self._take(skipped(self.specs[name], first, self._unfinished[first], needs=False))
            return True
        return False

    def _take(self, result: StepResult) -> None:
        if result.status == "failed":
            refused = result.exit_code == Refused.exit_code
            self._unfinished[result.id] = "refused" if refused else "failed"
        elif result.status == "skipped":
            self._unfinished[result.id] = "was skipped"
        self.record.add(result)
        self.tell(StepEnded(result))

    def _note_stopped(self, error: BaseException) -> None:
        """Results for all that did not come to their end."""
        for name in self.order:
            if name not in self.record.results:
                result = stopped(self.specs[name], error, begun=name in self._begun)
                self.record.results[name] = result
                self.tell(StepEnded(result))


def stoppable(progress: Progressing, stop: threading.Event) -> Progressing:
    """`progress`, which ends whatever reports to it once `stop` is set.

    Raises KeyboardInterrupt there: only the main thread is told of one by the system.
    """

    @contextmanager
    def watched(title: str, total_bytes: int) -> Iterator[Advance]:
        with progress(title, total_bytes) as advance:

            def step(nbytes: int) -> None:
                if stop.is_set():
                    raise KeyboardInterrupt
                advance(nbytes)

            yield step

    return watched
