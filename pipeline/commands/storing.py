"""Commands on what lies in a store: list, copy, delete and clean."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.commands.options import DryRun, Format, Memory, Output, Overwrite, Store, Tier
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.operations.storing.cleaning import CleanReport
    from pipeline.operations.storing.deleting import DeleteReport

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def list_store(
    place: Annotated[
        str | None,
        typer.Argument(
            metavar="[PREFIX]",
            help="What names begin with, as in deltas/; or a location, as az://container/path.",
            show_default=False,
        ),
    ] = None,
    store: Store = None,
    form: Output = Format.HUMAN,
) -> None:
    """List the deltas and models of a store.

    Only the headers of deltas are read. A model folder is one line.
    """
    from pipeline import list_store as run
    from pipeline.rendering import show_listing

    show_listing(run(place, store=store), as_json=form is Format.JSON)


def copy(
    source: Annotated[str, typer.Argument(help="A delta, or a model folder.", show_default=False)],
    destination: Annotated[
        str,
        typer.Argument(
            help="Its new name or location; with a slash at the end, where to put it.",
            show_default=False,
        ),
    ],
    store: Store = None,
    memory: Memory = "1GiB",
    tier: Tier = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    form: Output = Format.HUMAN,
) -> None:
    """Copy a delta, with its signature, or a model folder.

    From store to store; within one storage account the service copies by itself.
    """
    from pipeline import copy as run
    from pipeline.progress import bar
    from pipeline.rendering import show

    report = run(
        source,
        destination,
        store=store,
        memory=memory,
        tier=tier,
        overwrite=overwrite,
        dry_run=dry_run,
        progress=bar,
    )
    show(report, as_json=form is Format.JSON)


def delete(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Deltas and model folders.", show_default=False),
    ],
    yes: Yes = False,
    store: Store = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    form: Output = Format.HUMAN,
) -> None:
    """Delete deltas, with their signatures, and model folders.

    Shows what would go and asks, or, where nobody can answer, wants --yes.
    """
    from pipeline import delete as run
    from pipeline.rendering import show_deletion

    def agree(report: DeleteReport) -> bool:
        if yes:
            return True
        show_deletion(report, as_json=False, to=sys.stderr)
        if not sys.stdin.isatty():
            raise UsageError("nobody is there to agree to that", hint="add --yes")
        return typer.confirm("delete that?", err=True)

    report = run(names, store=store, dry_run=dry_run, agree=agree)
    show_deletion(report, as_json=form is Format.JSON)


def clean(
    prefix: Annotated[
        str | None,
        typer.Argument(
            metavar="[PREFIX]", help="What names begin with; or a location.", show_default=False
        ),
    ] = None,
    yes: Yes = False,
    older_than: Annotated[
        str, typer.Option(help="Leave what is younger, where that is known: 1d, 12h, 30m.")
    ] = "1d",
    store: Store = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list.")] = False,
    form: Output = Format.HUMAN,
) -> None:
    """List what killed and abandoned runs have left, and with --yes remove it.

    On a terminal it asks. What a living run holds, and what is young, is left alone.
    """
    from pipeline import clean as run
    from pipeline.rendering import show_cleaning

    def agree(report: CleanReport) -> bool:
        if yes or not sys.stdin.isatty():
            return yes
        show_cleaning(report, as_json=False, to=sys.stderr)
        return typer.confirm("remove that?", err=True)

    report = run(prefix, store=store, older_than=older_than, dry_run=dry_run, agree=agree)
    show_cleaning(report, as_json=form is Format.JSON)
