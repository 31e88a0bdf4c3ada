"""A run of a config's steps: planned, or performed and put on record."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

from pipeline.batch.config import Config, Defaults
from pipeline.batch.crew import Crew, stoppable
from pipeline.batch.engines import Engine
from pipeline.batch.events import OnEvent, RunEnded, RunStarted
from pipeline.batch.known import Known
from pipeline.batch.plan import Planner
from pipeline.batch.record import Record
from pipeline.batch.report import BatchReport, ReportFile, StepResult, default_place
from pipeline.batch.specification import Specification, specify
from pipeline.batch.step import StepRunner
from pipeline.batch.steps import AnyStep
from pipeline.errors import PipelineError
from pipeline.operations.setup import DEFAULT_MEMORY
from pipeline.progress import Progressing
from pipeline.settings import Settings
from pipeline.units import parse_bytes


@dataclass(frozen=True)
class Run:
    """A run of the steps `order`. needs: what each of them waits for, of those that are in it."""

    order: Sequence[str]
    needs: Mapping[str, Sequence[str]]
    steps: Mapping[str, AnyStep]
    specs: Mapping[str, Specification]
    options: Defaults
    settings: Settings
    known: Known
    record: Record
    tell: OnEvent
    stop: threading.Event = field(default_factory=threading.Event)

    @classmethod
    def prepare(
        cls,
        config: Config,
        options: Defaults,
        order: Sequence[str],
        *,
        source: str | None,
        data: bytes,
        dry_run: bool,
        tell: OnEvent,
    ) -> Self:
        """A run of the steps `order` of `config`, whose file is `source`, with `data` in it.

        Raises PipelineError if the report can't be written: hours of work would not be told of.
        """
        settings = Settings.load(store=options.store)
        file = ReportFile.at(config.report or default_place(source), settings)
        if not dry_run:
            file.check()
        known = file.known()
        steps, graph = config.by_id, config.graph
        return cls(
            order,
            {name: [need for need in graph.needs[name] if need in order] for name in order},
            steps,
            {name: specify(step, steps, options) for name, step in steps.items()},
            options,
            settings,
            known,
            Record(source, data, order, known, None if dry_run else file),
            tell,
        )

    def plan(self, *, alone: bool, keep_going: bool) -> BatchReport:
        """Say what would be done. alone: whether what a step needs is taken to be there."""
        planner = Planner(self.steps, self.specs, self.known, self.settings, alone)
        return self._each(planner.plan, 1, keep_going)

    def perform(
        self,
        engine: Engine,
        *,
        jobs: int,
        force: bool,
        keep_going: bool,
        progress: Progressing,
    ) -> BatchReport:
        """Do what is to be done, `jobs` steps at once."""
        memory_bytes = parse_bytes(self.options.memory or DEFAULT_MEMORY)
        runner = StepRunner(
            self.known,
            self.settings,
            engine,
            engine.limits(memory_bytes, self.options.workers, jobs),
            stoppable(progress, self.stop),
            force,
        )
        return self._each(runner.run, jobs, keep_going)

    def _each(
        self, run_step: Callable[[Specification], StepResult], jobs: int, keep_going: bool
    ) -> BatchReport:
        record = self.record
        self.tell(RunStarted(record.config, self.order, record.dry_run))
        crew = Crew(
            self.order, self.needs, self.specs, run_step, record, self.stop, self.tell, keep_going
        )
        try:
            crew.run(jobs)
        except BaseException:
            with suppress(PipelineError):  # the first error is the one to tell of
                record.save()
            self.tell(RunEnded(record.last))
            raise
        report = record.last
        self.tell(RunEnded(report))
        return report
