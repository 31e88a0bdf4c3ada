"""run_batch: the difference between what a config says and what exists, and no more.

A step is a pure function of its specification: it is called with locations and options, and whatever
the steps say to each other passes through what they write. What exists is seen from headers; a step is
left alone if what it would write is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from pipeline.batch.config import Config, parse_config, read_file
from pipeline.batch.crew import Crew, stoppable
from pipeline.batch.engines import Engine, engine_of
from pipeline.batch.plan import Planner
from pipeline.batch.record import Record
from pipeline.batch.report import BatchReport, ReportFile, StepResult, default_place
from pipeline.batch.specification import specify
from pipeline.batch.step import StepRunner
from pipeline.errors import PipelineError, UsageError
from pipeline.operations.setup import DEFAULT_MEMORY
from pipeline.progress import Progressing, silent
from pipeline.settings import Settings
from pipeline.units import parse_bytes


def run_batch(
    config: str | Path | Config,
    *,
    only: str | None = None,
    dry_run: bool = False,
    force: bool = False,
    jobs: int = 1,
    keep_going: bool = True,
    engine: Engine | str = "local",
    ray_address: str | None = None,
    store: str | None = None,
    device: str | None = None,
    memory: str | int | None = None,
    workers: int | None = None,
    overwrite: bool | None = None,
    progress: Progressing = silent,
    on_step: Callable[[StepResult], None] | None = None,
) -> BatchReport:
    """Make what `config`, a file's path or a `Config`, says must exist, and write a report.

    Steps whose output is what they would write are left alone, unless `force` is set. A step that fails
    stops those that need it; the others go on, unless `keep_going` is off. So look at the report's `ok`.
    only: the id of the one step to run; what it needs must be there already. dry_run: plan each step
    from headers, write nothing, not even the report. jobs: how many steps may run at once; memory and
    workers are for all of them together. engine: where they run: "local", this process; "ray", the nodes
    of the cluster at `ray_address`, each task with all of memory and workers; or one of your own.
    store, device, memory, workers, overwrite: in place of the config's defaults. on_step: called with
    the result of each step as it ends.
    Raises ConfigError for a config with problems, UsageError for options that mean nothing, and other
    errors of `pipeline.errors` if the report can't be written. What is none of them, an interrupt for
    one, passes through after the report is written; what running steps had staged is kept.
    """
    source, data, config = _read(config)
    if jobs < 1:
        raise UsageError(f"{jobs} jobs can do nothing", hint="give --jobs 1 or more")
    options = config.options.override(
        store=store, device=device, memory=memory, workers=workers, overwrite=overwrite
    )
    order, steps, graph = config.graph.select(only), config.by_id, config.graph
    settings = Settings.load(store=options.store)
    file = ReportFile.at(config.report or default_place(source), settings)
    if not dry_run:
        file.check()
    known, stop = file.known(), threading.Event()
    specs = {name: specify(step, steps, options) for name, step in steps.items()}
    record = Record(source, data, order, known, None if dry_run else file)
    needs = {name: [need for need in graph.needs[name] if need in order] for name in order}
    with ExitStack() as stack:
        if dry_run:
            run_step = Planner(steps, specs, known, settings, alone=only is not None).plan
        else:
            performer = stack.enter_context(engine_of(engine, ray_address))
            memory_bytes = parse_bytes(options.memory or DEFAULT_MEMORY)
            limits = performer.limits(memory_bytes, options.workers, jobs)
            watched = stoppable(progress, stop)
            run_step = StepRunner(known, settings, performer, limits, watched, force).run
        stack.enter_context(_saved(record))
        crew = Crew(order, needs, specs, run_step, record, stop, on_step, keep_going)
        crew.run(1 if dry_run else jobs)
    return record.last


@contextmanager
def _saved(record: Record) -> Iterator[None]:
    """Save what is known of the run, whatever ends it."""
    try:
        yield
    except BaseException:
        with suppress(PipelineError):  # the first error is the one to tell of
            record.save()
        raise


def _read(config: str | Path | Config) -> tuple[str | None, bytes, Config]:
    """The config with its path, if it has one, and the bytes that it is known by."""
    if isinstance(config, Config):
        return None, config.model_dump_json(by_alias=True).encode(), config
    data = read_file(config)
    return str(config), data, parse_config(data, where=str(config))
