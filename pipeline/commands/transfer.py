"""compute and apply."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypedDict, Unpack

from typer import Option

from pipeline.commands.command import command
from pipeline.commands.fusing import Related, Seeded
from pipeline.commands.options import (
    BASE_HELP,
    Dequantizing,
    DTypeName,
    FromHub,
    InStore,
    KeepingDigests,
    NewDelta,
    OnDevice,
    Packed,
    Proven,
    Published,
    Scale,
    Scaled,
    Working,
)
from pipeline.progress import bar
from pipeline.rendering import show, show_apply

if TYPE_CHECKING:
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


class _Decided(TypedDict):
    take_config: Annotated[
        list[str] | None,
        Option(
            None,
            help="base:KEY or post:KEY: whose value of config.json counts; may be given several times.",
        ),
    ]


class _Read(OnDevice, FromHub, KeepingDigests, Dequantizing, Working):
    """How models are read and what computes."""


class Computing(_NewDelta, Packed, _Read, Published):
    """Options of compute."""


class Applying(_NewModel, Seeded, _Decided, Related, Proven, _Read, Published):
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


@command(show_apply)
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
