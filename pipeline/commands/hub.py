"""The command that brings finished work to the Hub: push."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.options import Format, Output, Overwrite, Private, PushRevision, Store


def push(
    location: Annotated[
        str, typer.Argument(help="A delta, or a folder that apply wrote.", show_default=False)
    ],
    repository: Annotated[str, typer.Argument(help="org/name on the Hub.", show_default=False)],
    private: Private = False,
    revision: PushRevision = None,
    store: Store = None,
    overwrite: Overwrite = False,
    form: Output = Format.HUMAN,
) -> None:
    """Push a finished delta or model to the Hub.

    All of it in one commit, with a card; read from where it lies, with no disk in between.
    """
    from pipeline import push as run
    from pipeline.rendering import show

    report = run(
        location, repository, private=private, revision=revision, store=store, overwrite=overwrite
    )
    show(report, as_json=form is Format.JSON)
