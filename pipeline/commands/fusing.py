"""Options of what several deltas come to."""

from __future__ import annotations

from typing import Annotated, TypedDict

from typer import Option

from pipeline.operations.fusion.methods import MethodName


class Mixed(TypedDict):
    """How deltas are put together, and where they are added; see docs/fusion.md."""

    method: Annotated[MethodName, Option("linear", help="How deltas are put together.")]
    density: Annotated[
        float | None, Option(None, help="Part of each delta's elements that is kept. [default: 1]")
    ]
    lambda_: Annotated[
        float | None, Option(None, "--lambda", help="What the sum is multiplied by. [default: 1]")
    ]
    epsilon: Annotated[
        float | None, Option(None, help="della: how far chances are from density. [default: 0.15]")
    ]
    gamma: Annotated[
        float | None,
        Option(None, help="breadcrumbs: part of the largest that is left out. [default: 0.01]"),
    ]
    scale_for: Annotated[
        list[str] | None,
        Option(
            None,
            help="'REGEX=0.5' or 'layers:0-7=0.5': what matching tensors get is multiplied by it; "
            "the last that matches counts.",
        ),
    ]
    only: Annotated[list[str] | None, Option(None, help="REGEX: add to matching tensors alone.")]
    skip: Annotated[
        list[str] | None, Option(None, help="REGEX: matching tensors keep the base's values.")
    ]


class Seeded(Mixed):
    """The same, and what chance decides."""

    seed: Annotated[
        int | None, Option(None, help="Of dare's and della's random choice. [default: 0]", min=0)
    ]


class Related(TypedDict):
    """What a new base must have to do with the deltas' own."""

    allow_unrelated: Annotated[
        bool,
        Option(
            False,
            "--allow-unrelated",
            help="Add to a base that seems unrelated, or has its experts moved.",
        ),
    ]
