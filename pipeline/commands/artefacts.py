"""Commands on finished deltas and models: inspect, verify, combine and convert."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.options import (
    Codec,
    CodecOption,
    DryRun,
    Format,
    HubCache,
    Key,
    Memory,
    Output,
    Overwrite,
    Required,
    SignKey,
    Store,
    Workers,
)


def inspect(
    location: Annotated[str, typer.Argument(help="A delta or a checkpoint.", show_default=False)],
    store: Store = None,
    form: Output = Format.HUMAN,
) -> None:
    """Show what a delta or a model holds.

    Only headers and manifests are read.
    """
    from pipeline import inspect as run
    from pipeline.rendering import show_inspection

    show_inspection(run(location, store=store), as_json=form is Format.JSON)


def verify(
    location: Annotated[
        str, typer.Argument(help="A delta, or a folder that apply wrote.", show_default=False)
    ],
    base: Annotated[str | None, typer.Option(help="Is this the very base of the delta?")] = None,
    post: Annotated[
        str | None, typer.Option(help="Is this its post? With --base: does it come back bit for bit?")
    ] = None,
    key: Key = None,
    require_signature: Required = False,
    store: Store = None,
    hub_cache: HubCache = None,
    memory: Memory = "1GiB",
    workers: Workers = None,
    form: Output = Format.HUMAN,
) -> None:
    """Prove that a delta or a model is whole, and whose it is.

    Exits with 6 if it is damaged, 7 if base or post is another, 8 if unsigned, 9 if badly signed.
    """
    from pipeline import verify as run
    from pipeline.progress import bar
    from pipeline.rendering import show

    report = run(
        location,
        base=base,
        post=post,
        key=key,
        require_signature=require_signature,
        store=store,
        hub_cache=hub_cache,
        memory=memory,
        workers=workers,
        progress=bar,
    )
    show(report, as_json=form is Format.JSON)


def combine(
    delta: Annotated[list[str], typer.Option(help="DELTA or DELTA=SCALE; may be given several times.")],
    output: Annotated[str, typer.Option(help="The delta to write: a name in the store, or a location.")],
    scale: Annotated[float, typer.Option(help="Scale of each delta that has none of its own.")] = 1.0,
    store: Store = None,
    codec: CodecOption = Codec.RANS,
    memory: Memory = "1GiB",
    workers: Workers = None,
    sign_key: SignKey = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    form: Output = Format.HUMAN,
) -> None:
    """Write the sum of scale · delta as a new delta.

    It adds to any base as its parts would together, rounded once, and says what they were.
    """
    from pipeline import combine as run
    from pipeline.operations.arguments import parse_scaled
    from pipeline.progress import bar
    from pipeline.rendering import show

    report = run(
        [parse_scaled(text, scale) for text in delta],
        output,
        store=store,
        codec=codec,
        memory=memory,
        workers=workers,
        sign_key=sign_key,
        overwrite=overwrite,
        dry_run=dry_run,
        progress=bar,
    )
    show(report, as_json=form is Format.JSON)


def convert(
    delta: Annotated[str, typer.Argument(help="The delta to read.", show_default=False)],
    output: Annotated[str, typer.Option(help="The delta to write: a name in the store, or a location.")],
    codec: CodecOption,
    store: Store = None,
    memory: Memory = "1GiB",
    workers: Workers = None,
    sign_key: SignKey = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    form: Output = Format.HUMAN,
) -> None:
    """Write the same delta packed, or unpacked for other readers.

    Every digest is checked on the way.
    """
    from pipeline import convert as run
    from pipeline.progress import bar
    from pipeline.rendering import show

    report = run(
        delta,
        output,
        codec=codec,
        store=store,
        memory=memory,
        workers=workers,
        sign_key=sign_key,
        overwrite=overwrite,
        dry_run=dry_run,
        progress=bar,
    )
    show(report, as_json=form is Format.JSON)
