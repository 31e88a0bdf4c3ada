"""analyze: what deltas are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Unpack

from typer import Argument, Option

from pipeline.commands.command import command
from pipeline.commands.options import Dequantizing, FromHub, InStore, Planned, Replacing, Working
from pipeline.progress import bar
from pipeline.rendering import show_analysis

if TYPE_CHECKING:
    from pipeline.operations.analyze import AnalyzeReport


class Analyzing(InStore, FromHub, Dequantizing, Working, Replacing, Planned):
    """Options of analyze."""


@command(show_analysis)
def analyze(
    deltas: Annotated[list[str], Argument(help="Deltas; each pair is compared.", show_default=False)],
    output: Annotated[str, Option(help="The folder to write: analysis.json, and plots/.")],
    base: Annotated[
        str | None,
        Option(help="Measure norms of this model's tensors; else those of the deltas' own bases."),
    ] = None,
    plots: Annotated[str, Option(help="Formats of plots: svg, png, svg,png or none.")] = "svg",
    sketch: Annotated[
        int, Option(help="Rows and columns from which singular values are sampled; 0: none.")
    ] = 509,
    evaluation: Annotated[
        list[str] | None,
        Option(help="REPORT or REPORT=SCALE of evaluate: draw its scores; may be given several times."),
    ] = None,
    **options: Unpack[Analyzing],
) -> AnalyzeReport:
    """Show what deltas are made of, by layer and module, and how they agree.

    One pass over each delta writes its figures and plots; memory does not grow with the model.
    """
    from pipeline import analyze as run
    from pipeline.operations.arguments import parse_scaled

    return run(
        deltas,
        output,
        base=base,
        plots=plots,
        sketch=sketch,
        evaluation=[parse_scaled(text, 1.0) for text in evaluation or ()],
        **options,
        progress=bar,
    )
