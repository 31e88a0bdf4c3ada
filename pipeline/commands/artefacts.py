"""Commands on finished deltas and models: inspect, verify, combine, convert and push."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Unpack

from typer import Argument, Option

from pipeline.commands.command import command
from pipeline.commands.options import (
    CODEC_HELP,
    Codec,
    Dequantizing,
    Finished,
    FromHub,
    InStore,
    NewDelta,
    Packed,
    Planned,
    Proven,
    Replacing,
    Repository,
    Scale,
    Scaled,
    Signed,
    Working,
)
from pipeline.progress import bar
from pipeline.rendering import show, show_inspection

if TYPE_CHECKING:
    from pipeline.operations.combine import CombineReport
    from pipeline.operations.convert import ConvertReport
    from pipeline.operations.inspect import Inspection
    from pipeline.operations.push import PushReport
    from pipeline.operations.verify import VerifyReport


class Inspecting(InStore, Dequantizing):
    """Options of inspect."""


class Verifying(Proven, InStore, FromHub, Dequantizing, Working):
    """Options of verify."""


class Deriving(InStore, Working, Signed, Replacing, Planned):
    """Options of convert."""


class Combining(InStore, Packed, Working, Signed, Replacing, Planned):
    """Options of combine."""


class Pushing(Repository, InStore, Replacing):
    """Options of push."""


@command(show_inspection)
def inspect(
    location: Annotated[str, Argument(help="A delta, a checkpoint or an adapter.", show_default=False)],
    **options: Unpack[Inspecting],
) -> Inspection:
    """Show what a delta, a model or an adapter holds.

    Only headers and manifests are read.
    """
    from pipeline import inspect as run

    return run(location, **options)


@command(show)
def verify(
    location: Finished,
    base: Annotated[str | None, Option(help="Is this the very base of the delta?")] = None,
    post: Annotated[
        str | None, Option(help="Is this its post? With --base: does it come back bit for bit?")
    ] = None,
    **options: Unpack[Verifying],
) -> VerifyReport:
    """Prove that a delta or a model is whole, and whose it is.

    Exits with 6 if it is damaged, 7 if base or post is another, 8 if unsigned, 9 if badly signed.
    """
    from pipeline import verify as run

    return run(location, base=base, post=post, **options, progress=bar)


@command(show)
def combine(
    delta: Scaled, output: NewDelta, scale: Scale = 1.0, **options: Unpack[Combining]
) -> CombineReport:
    """Write the sum of scale · delta as a new delta.

    It adds to any base as its parts would together, rounded once, and says what they were.
    """
    from pipeline import combine as run
    from pipeline.operations.arguments import parse_scaled

    return run([parse_scaled(text, scale) for text in delta], output, **options, progress=bar)


@command(show)
def convert(
    delta: Annotated[str, Argument(help="The delta to read.", show_default=False)],
    output: NewDelta,
    codec: Annotated[Codec, Option(help=CODEC_HELP)],
    **options: Unpack[Deriving],
) -> ConvertReport:
    """Write the same delta packed, or unpacked for other readers.

    Every digest is checked on the way.
    """
    from pipeline import convert as run

    return run(delta, output, codec=codec, **options, progress=bar)


@command(show)
def push(
    location: Finished,
    repository: Annotated[str, Argument(help="org/name on the Hub.", show_default=False)],
    **options: Unpack[Pushing],
) -> PushReport:
    """Push a finished delta or model to the Hub.

    All of it in one commit, with a card; read from where it lies, with no disk in between.
    """
    from pipeline import push as run

    return run(location, repository, **options)
