"""Commands that show evidence to people: page and catalog."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Unpack

from typer import Argument, Option

from pipeline.commands.command import command
from pipeline.commands.options import InStore, Planned, Prefix, Replacing
from pipeline.rendering import show

if TYPE_CHECKING:
    from pipeline.operations.catalog import CatalogReport
    from pipeline.operations.page import PageReport

NewFolder = Annotated[str, Option(help="The folder to write index.html in, or az://container/path.")]

Checked = Annotated[str | None, Option(help="Check signatures by this public key or certificate (PEM).")]


class Showing(InStore, Replacing, Planned):
    """Options of page and of catalog."""


@command(show)
def page(
    reports: Annotated[
        list[str],
        Argument(
            metavar="REPORT...",
            help="Reports of batch, evaluate, gate, or what a command printed as JSON; a delta; a "
            "release; a folder that analyze wrote.",
            show_default=False,
        ),
    ],
    output: NewFolder,
    title: Annotated[
        str | None, Option(help="What the page is about. [default: the release's name]")
    ] = None,
    key: Checked = None,
    **options: Unpack[Showing],
) -> PageReport:
    """Write a web page of what is known of a transfer.

    Lineage, what changed, whether it works and is exact, who signed it. One file that loads nothing.
    """
    from pipeline import page as run

    return run(reports, output, title=title, key=key, **options)


@command(show)
def catalog(
    output: NewFolder,
    place: Prefix = None,
    key: Checked = None,
    **options: Unpack[Showing],
) -> CatalogReport:
    """Write a web page of all that lies in a store.

    Deltas and releases with base, size, date, signature and verdict; which deltas fit which base. Only
    headers are read.
    """
    from pipeline import catalog as run

    return run(output, place, key=key, **options)
