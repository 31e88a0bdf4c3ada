"""The three main commands: compute, apply and batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Unpack

from typer import Argument, Option

from pipeline.commands.command import Format, command
from pipeline.commands.endings import judge_steps
from pipeline.commands.options import (
    BASE_HELP,
    DTypeName,
    FromHub,
    InStore,
    NewDelta,
    OnDevice,
    Packed,
    Planned,
    Proven,
    Published,
    Scale,
    Scaled,
    Working,
)
from pipeline.errors import UsageError
from pipeline.progress import bar
from pipeline.rendering import show, show_batch, show_step

if TYPE_CHECKING:
    from pipeline.batch.report import BatchReport
    from pipeline.operations.compute import ComputeReport
    from pipeline.operations.outputs.report import ApplyReport


class _NewDelta(InStore):
    dtype: Annotated[DTypeName, Option("auto", help="Storage format; the delta is exact in any.")]


class _NewModel(InStore):
    dtype: Annotated[
        DTypeName, Option("auto", help="Format of the result's floats; auto is the base's own.")
    ]
    shard_size: Annotated[str, Option("5GiB", help="Largest weight file.")]
    old_base: Annotated[
        str | None,
        Option(None, help="The delta's own base: says how far the new one is from it."),
    ]


class Computing(_NewDelta, Packed, OnDevice, FromHub, Working, Published):
    """Options of compute."""


class Applying(_NewModel, Proven, OnDevice, FromHub, Working, Published):
    """Options of apply."""


@command(show)
def compute(
    base: Annotated[str, Option(help=BASE_HELP)],
    post: Annotated[str, Option(help="Its post-trained version.")],
    output: NewDelta,
    **options: Unpack[Computing],
) -> ComputeReport:
    """Write post − base as a delta file.

    The file restores post bit for bit on its own base, and adds exactly to any other.
    """
    from pipeline import compute as run

    return run(base, post, output, **options, progress=bar)


@command(show)
def apply(
    base: Annotated[str, Option(help="The checkpoint that receives it: " + BASE_HELP)],
    delta: Scaled,
    output: Annotated[str, Option(help="The model folder to write.")],
    scale: Scale = 1.0,
    **options: Unpack[Applying],
) -> ApplyReport:
    """Write base + scale · delta as a model folder.

    The folder has weights, config, tokenizer and a model card; transformers loads it.
    """
    from pipeline import apply as run
    from pipeline.operations.arguments import parse_scaled

    deltas = [parse_scaled(text, scale) for text in delta]
    return run(base, deltas, output, **options, progress=bar)


@command(show_batch, judge=judge_steps)
def batch(
    form: Format,
    config: Annotated[str | None, Argument(help="The JSON config.", show_default=False)] = None,
    config_option: Annotated[str | None, Option("--config", help="The same as an option.")] = None,
    only: Annotated[str | None, Option(help="Run this step alone.")] = None,
    **options: Unpack[Planned],
) -> BatchReport:
    """Run the steps of a JSON config.

    Steps compute and apply; they refer to each other's results by id.
    """
    path = _the_one(config, config_option)
    from pipeline import run_batch as run

    on_step = None if form == "json" else show_step
    return run(path, only=only, **options, progress=bar, on_step=on_step)


def _the_one(config: str | None, config_option: str | None) -> str:
    """The config, however it was named. Raises UsageError if it was not named once."""
    match [path for path in (config, config_option) if path is not None]:
        case [path]:
            return path
    raise UsageError("batch needs one config", hint="cli.py batch configs/quickstart.json")
