"""Commands on a store: list, copy, delete and clean what lies in it, and doctor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Unpack

from typer import Argument, Option

from pipeline.commands.asking import Yes, asking, asking_if_there
from pipeline.commands.command import command
from pipeline.commands.endings import judge_checks
from pipeline.commands.options import Bounded, InStore, InTier, Planned, Prefix, Replacing
from pipeline.progress import bar
from pipeline.rendering import show, show_checks, show_cleaning, show_deletion, show_listing

if TYPE_CHECKING:
    from pipeline.operations.doctor.report import Health
    from pipeline.operations.storing.cleaning import CleanReport
    from pipeline.operations.storing.copying import CopyReport
    from pipeline.operations.storing.deleting import DeleteReport
    from pipeline.operations.storing.listing import Listing


class Copying(InStore, Bounded, InTier, Replacing, Planned):
    """Options of copy."""


class Deleting(InStore):
    """Options of delete."""

    dry_run: Annotated[bool, Option(False, "--dry-run", help="Only say what would go.")]


class Cleaning(InStore):
    """Options of clean."""

    dry_run: Annotated[bool, Option(False, "--dry-run", help="Only list.")]


@command(show_listing)
def list_store(
    place: Prefix = None,
    **options: Unpack[InStore],
) -> Listing:
    """List the deltas and models of a store.

    Only the headers of deltas are read. A model folder is one line.
    """
    from pipeline import list_store as run

    return run(place, **options)


@command(show)
def copy(
    source: Annotated[str, Argument(help="A delta, or a model folder.", show_default=False)],
    destination: Annotated[
        str,
        Argument(
            help="Its new name or location; with a slash at the end, where to put it.",
            show_default=False,
        ),
    ],
    **options: Unpack[Copying],
) -> CopyReport:
    """Copy a delta, with its signature, or a model folder.

    From store to store; within one storage account the service copies by itself.
    """
    from pipeline import copy as run

    return run(source, destination, **options, progress=bar)


@command(show_deletion)
def delete(
    names: Annotated[
        list[str], Argument(metavar="NAME...", help="Deltas and model folders.", show_default=False)
    ],
    yes: Yes = False,
    **options: Unpack[Deleting],
) -> DeleteReport:
    """Delete deltas, with their signatures, and model folders.

    Shows what would go and asks, or, where nobody can answer, wants --yes.
    """
    from pipeline import delete as run

    return run(names, **options, agree=asking("delete that?", show_deletion, yes=yes))


@command(show_cleaning)
def clean(
    prefix: Annotated[
        str | None,
        Argument(metavar="[PREFIX]", help="What names begin with; or a location.", show_default=False),
    ] = None,
    yes: Yes = False,
    older_than: Annotated[
        str, Option(help="Leave what is younger, where that is known: 1d, 12h, 30m.")
    ] = "1d",
    **options: Unpack[Cleaning],
) -> CleanReport:
    """List what killed and abandoned runs have left, and with --yes remove it.

    On a terminal it asks. What a living run holds, and what is young, is left alone.
    """
    from pipeline import clean as run

    agree = asking_if_there("remove that?", show_cleaning, yes=yes)
    return run(prefix, older_than=older_than, **options, agree=agree)


@command(show_checks, judge=judge_checks)
def doctor(**options: Unpack[InStore]) -> Health:
    """Check all that a run needs, in order, and say what to do.

    Versions, memory, disk, kernels, the Hub; of a container: credentials, account, clock, and that a
    small blob can be written, read and deleted. Exits with 0, or with the code of the first problem.
    """
    from pipeline import doctor as run

    return run(**options)
