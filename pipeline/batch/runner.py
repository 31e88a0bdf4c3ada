"""run_batch: the difference between what a config says and what exists, and no more.

A step is a pure function of its specification: it is called with locations and options, and whatever
the steps say to each other passes through what they write. What exists is seen from headers; a step is
left alone if what it would write is there.

A config with mistakes is refused before anything is imported that computes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.batch.config import Config, parse_config, read_file
from pipeline.batch.events import OnEvent, unheard
from pipeline.errors import UsageError
from pipeline.progress import Progressing, silent

if TYPE_CHECKING:
    from pipeline.batch.engines import Engine
    from pipeline.batch.report import BatchReport


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
    on_event: OnEvent = unheard,
) -> BatchReport:
    """Make what `config`, a file's path or a `Config`, says must exist, and write a report.

    Steps whose output is what they would write are left alone, unless `force` is set. A step that fails
    stops those that need it; the others go on, unless `keep_going` is off. So look at the report's `ok`.
    only: the id of the one step to run; what it needs must be there already. dry_run: plan each step
    from headers, write nothing, not even the report. jobs: how many steps may run at once; memory and
    workers are for all of them together. engine: where they run: "local", this process; "ray", the nodes
    of the cluster at `ray_address`, each task with all of memory and workers; or one of your own.
    store, device, memory, workers, overwrite: in place of the config's defaults. on_event: called, from
    this thread, with each `pipeline.batch.events.Event`.
    Raises ConfigError for a config with problems, UsageError for options that mean nothing, and other
    errors of `pipeline.errors` if the report can't be written. What is none of them, an interrupt for
    one, passes through after the report is written; what running steps had staged is kept.
    """
    source = None if isinstance(config, Config) else str(config)
    if isinstance(config, Config):
        data = config.model_dump_json(by_alias=True).encode()
    else:
        data = read_file(config)
        config = parse_config(data, where=str(source))
    if jobs < 1:
        raise UsageError(f"{jobs} jobs can do nothing", hint="give --jobs 1 or more")
    options = config.options.override(
        store=store, device=device, memory=memory, workers=workers, overwrite=overwrite
    )
    order = config.graph.select(only)
    from pipeline.batch.run import Run

    run = Run.prepare(config, options, order, source=source, data=data, dry_run=dry_run, tell=on_event)
    if dry_run:
        return run.plan(alone=only is not None, keep_going=keep_going)
    from pipeline.batch.engines import engine_of

    with engine_of(engine, ray_address) as found:
        return run.perform(found, jobs=jobs, force=force, keep_going=keep_going, progress=progress)
