"""batch: what a JSON config says must exist."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal, Unpack

from typer import Argument, Option

from pipeline.commands.command import Format, command
from pipeline.commands.endings import judge_steps
from pipeline.commands.options import Planned
from pipeline.commands.results import Results
from pipeline.errors import UsageError
from pipeline.progress import Progressing, bars, silent
from pipeline.rendering import show_batch, show_event, show_step_end

if TYPE_CHECKING:
    from pipeline.batch.events import Event
    from pipeline.batch.report import BatchReport

Junit = Annotated[
    str | None, Option("--junit", help="Write the results as JUnit XML, too: a file or a location.")
]
Summary = Annotated[
    str | None,
    Option(
        "--summary",
        help="Write the plan or the results as Markdown, too. In GitHub Actions they are added to the "
        "job's summary in any case.",
    ),
]


class Batch(Planned):
    """Options of batch."""

    only: Annotated[str | None, Option(None, help="Run this step alone.")]
    force: Annotated[bool, Option(False, "--force", help="Run steps whose output is up to date, too.")]
    jobs: Annotated[
        int, Option(1, help="Steps that may run at once, sharing memory and threads.", min=1)
    ]
    keep_going: Annotated[
        bool,
        Option(
            True,
            "--keep-going/--fail-fast",
            help="After a failure, go on with steps that do not need it, or begin no more.",
        ),
    ]
    engine: Annotated[
        Literal["local", "ray"],
        Option("local", help="Where steps run: in this process, or on a Ray cluster."),
    ]
    ray_address: Annotated[
        str | None,
        Option(None, help="The cluster, HOST:PORT. [default: RAY_ADDRESS, else this machine's]"),
    ]


@command(show_batch, judge=judge_steps)
def batch(
    form: Format,
    config: Annotated[str | None, Argument(help="The JSON config.", show_default=False)] = None,
    config_option: Annotated[str | None, Option("--config", help="The same as an option.")] = None,
    junit: Junit = None,
    summary: Summary = None,
    **options: Unpack[Batch],
) -> BatchReport:
    """Make what a JSON config says must exist: the difference to what exists, and no more.

    Steps compute, apply, combine, verify, evaluate, gate and publish; they refer to each other's results
    by id. With --format json every event is a line on standard error, and the report is on standard
    output.

    Exit codes: 0 done, 2 usage or config, 3 a step failed, 4 gates refused and no other step failed, 5
    steps failed for credentials or network alone, 130 interrupted.
    """
    path = _the_one(config, config_option)
    from pipeline import run_batch as run

    results = Results.wanted(junit=junit, summary=summary)
    show = show_event if form == "json" else show_step_end

    def tell(event: Event) -> None:
        show(event)
        results.hear(event)

    with results.of_problems(), _ending_as_interrupted(), _progress(form) as progress:
        return run(path, **options, progress=progress, on_event=tell)


@contextmanager
def _progress(form: Format) -> Iterator[Progressing]:
    """Bars for people; lines of JSON are not mixed with them."""
    if form == "json":
        yield silent
        return
    with bars() as shown:
        yield shown


def _the_one(config: str | None, config_option: str | None) -> str:
    """The config, however it was named. Raises UsageError if it was not named once."""
    match [path for path in (config, config_option) if path is not None]:
        case [path]:
            return path
    raise UsageError("batch needs one config", hint="cli.py batch configs/quickstart.json")


@contextmanager
def _ending_as_interrupted() -> Iterator[None]:
    """Take a request to end, as a CI system sends it, like Ctrl-C: what is staged is kept."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
