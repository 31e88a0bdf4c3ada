"""sweep: which scale of a delta is best, by what is measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, TypedDict, Unpack

from typer import Option

from pipeline.commands.command import command
from pipeline.commands.fusing import Mixed, Related
from pipeline.commands.options import (
    BASE_HELP,
    Dequantizing,
    FromHub,
    InStore,
    KeepingDigests,
    Planned,
    Replacing,
    Scaled,
    Working,
)
from pipeline.commands.quality import Measured
from pipeline.progress import bar
from pipeline.rendering import show_sweep

if TYPE_CHECKING:
    from pipeline.quality.sweep import Sweep


class Ranging(TypedDict):
    """The scales."""

    scales: Annotated[
        str | None,
        Option(None, help="With commas: 0,0.5,1; 0 is the base. [default: 0,0.25,0.5,0.75,1,1.25]"),
    ]
    begin: Annotated[float | None, Option(None, "--from", help="In place of --scales: the lowest.")]
    end: Annotated[float | None, Option(None, "--to", help="The highest.")]
    steps: Annotated[int | None, Option(None, help="How many, evenly from one to the other.", min=2)]


class HeldAgainst(TypedDict):
    """What every scale is held against, beside the base."""

    reference: Annotated[
        str | None, Option(None, help="What they should be like: the new base really post-trained.")
    ]
    donor: Annotated[str | None, Option(None, help="The delta's own post.")]
    donor_base: Annotated[str | None, Option(None, help="The delta's own base.")]


class Finding(TypedDict):
    """What becomes of models and results."""

    keep: Annotated[
        str | None,
        Option(
            None,
            metavar="DIR",
            help="A folder or container where the models stay. [default: each goes once it is measured]",
        ),
    ]
    plots: Annotated[str, Option("svg,png", help="Formats of plots: svg, png, svg,png or none.")]
    cache: Annotated[
        str | None,
        Option(None, metavar="DIR|off", help="As of evaluate. [default: the user's cache]"),
    ]


class Making(Mixed, Related):
    """How each scale's model is made."""


class Sweeping(
    Ranging, HeldAgainst, Measured, Making, Finding, InStore, FromHub, KeepingDigests, Dequantizing,
    Working, Replacing, Planned,
):  # fmt: skip
    """Options of sweep."""


@command(show_sweep)
def sweep(
    base: Annotated[str, Option(help="The checkpoint that receives it: " + BASE_HELP)],
    delta: Scaled,
    output: Annotated[str, Option(help="The folder to write: sweep.json, evaluations, plots/.")],
    **options: Unpack[Sweeping],
) -> Sweep:
    """Apply deltas at several scales, measure each, and say which scale is best by what.

    One model at a time is on the disk, and goes once it is measured; what was measured before is not
    measured again. docs/sweep.md has all of it.
    """
    from pipeline import sweep as run
    from pipeline.operations.arguments import parse_scaled

    deltas = [parse_scaled(text, 1.0) for text in delta]
    others: dict[str, Any] = {**options}
    chosen = {name: others.pop(name) for name in Making.__annotations__}
    making = {n: v for n, v in chosen.items() if v is not None and v is not False and v != "linear"}
    return run(base, deltas, output, **others, making=making, progress=bar)
