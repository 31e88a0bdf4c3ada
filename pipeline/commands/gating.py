"""Commands that stand between a model and its release: gate and publish."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Unpack

from typer import Argument, Option

from pipeline.commands.command import command
from pipeline.commands.endings import judge_verdict
from pipeline.commands.options import Bounded, InStore, InTier, Planned, Replacing
from pipeline.progress import bar
from pipeline.rendering import show, show_verdict

if TYPE_CHECKING:
    from pipeline.operations.publish import PublishReport
    from pipeline.quality.verdict import Verdict


class Publishing(InStore, Bounded, InTier, Replacing, Planned):
    """Options of publish."""


@command(show_verdict, judge=judge_verdict)
def gate(
    report: Annotated[
        str,
        Argument(help="What evaluate has written: a file or az://container/path.", show_default=False),
    ],
    require: Annotated[
        list[str],
        Option(help='What must hold, as "every task >= base - 2se"; may be given several times.'),
    ],
    output: Annotated[
        str | None, Option(help="Keep the verdict here: a file or az://container/path.")
    ] = None,
    **options: Unpack[Replacing],
) -> Verdict:
    """Judge an evaluation: may this model be released?

    Conditions compare figures of the model with numbers and with the same figures of base, reference,
    donor and donor_base; se is the standard error of the comparison. Exits with 4 if one does not hold.
    """
    from pipeline import gate as run

    return run(report, require=require, output=output, **options)


@command(show)
def publish(
    source: Annotated[str, Argument(help="A delta, or a folder that apply wrote.", show_default=False)],
    output: Annotated[str, Argument(help="Its final name or location.", show_default=False)],
    gates: Annotated[
        list[str],
        Option("--gate", help="A verdict that gate has kept; all that are given must let it pass."),
    ],
    **options: Unpack[Publishing],
) -> PublishReport:
    """Give a finished delta or model its final name, once its gates have let it pass.

    A verdict counts for the very model that was judged, and for the deltas that made it. Exits with 4 if
    one refuses, or is of something else.
    """
    from pipeline import publish as run

    return run(source, output, gates=gates, **options, progress=bar)
