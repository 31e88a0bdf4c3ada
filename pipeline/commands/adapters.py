"""Commands on adapters: extract-adapter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Unpack

from typer import Argument, Option

from pipeline.commands.command import command
from pipeline.commands.options import Bounded, InStore, InTier, Planned, Replacing, Signed
from pipeline.progress import bar
from pipeline.rendering import show

if TYPE_CHECKING:
    from pipeline.operations.extract_adapter import ExtractReport


class Extracting(InStore, Bounded, Signed, InTier, Replacing, Planned):
    """Options of extract-adapter."""


@command(show)
def extract_adapter(
    delta: Annotated[str, Argument(help="The delta to read.", show_default=False)],
    output: Annotated[str, Option(help="The adapter folder to write.")],
    rank: Annotated[int | None, Option(help="Rank of each matrix's product.", min=1)] = None,
    energy: Annotated[
        float | None, Option(help="Instead: the share of its squared norm to keep, as 0.99.")
    ] = None,
    base: Annotated[
        str | None,
        Option(help="The delta's own base: with it, norms, embeddings and the like are held whole."),
    ] = None,
    only: Annotated[str | None, Option(help="REGEX that a tensor's name must have a match of.")] = None,
    skip: Annotated[str | None, Option(help="REGEX that it must have no match of.")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], Option(help="Format of the factors.")
    ] = "float32",
    seed: Annotated[int, Option(help="Of what is drawn for large matrices.")] = 0,
    **options: Unpack[Extracting],
) -> ExtractReport:
    """Write a delta's low-rank part as a LoRA adapter.

    PEFT loads it. The error of each matrix, |∆ − B·A| / |∆|, is measured and shown.
    """
    from pipeline import extract_adapter as run

    return run(
        delta, output, rank=rank, energy=energy, base=base, only=only, skip=skip, dtype=dtype,
        seed=seed, **options, progress=bar,
    )  # fmt: skip
