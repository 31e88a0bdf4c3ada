"""Commands that stand between a model and its release: gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Unpack

from typer import Argument, Option

from pipeline.commands.command import command
from pipeline.commands.endings import judge_verdict
from pipeline.commands.options import Replacing
from pipeline.rendering import show_verdict

if TYPE_CHECKING:
    from pipeline.quality.verdict import Verdict


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
