"""What all commands have in common: options by groups, and one place that shows what came of them.

    class Copying(InStore, Bounded, Replacing): ...        # groups of `pipeline.commands.options`

    @command(show)
    def copy(source: Source, **options: Unpack[Copying]) -> CopyReport:
        return pipeline.copy(source, **options)

Typer sees one option for each field of `Copying`, and `--format`. Type checkers hold the fields against
the operation's parameters: an option that the operation does not take is an error of types.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import wraps
from inspect import Parameter
from typing import Any, Literal, TypeVar, get_args, get_type_hints

import typer

from pipeline.rendering import show_json

Report = TypeVar("Report")
Format = Literal["human", "json"]


def command(
    show: Callable[[Report], None], *, judge: Callable[[Report], None] = lambda report: None
) -> Callable[[Callable[..., Report]], Callable[..., None]]:
    """Make a function that returns a report into a command that shows it.

    show: prints the report for people. judge: is called after that, and raises if the command has
    failed. A function that has to know the format itself takes it as `form`.
    """

    def make(run: Callable[..., Report]) -> Callable[..., None]:
        run.__annotations__.pop("return", None)  # imported only when the command runs
        own = inspect.signature(run, eval_str=True).parameters

        @wraps(run)
        def call(form: Format, **words: Any) -> None:
            report = run(**words, form=form) if "form" in own else run(**words)
            if form == "json":
                show_json(report)
            else:
                show(report)
            judge(report)

        call.__signature__ = inspect.Signature(list(_parameters(own.values())))  # type: ignore[attr-defined]
        return call

    return make


def _parameters(own: Any) -> Iterator[Parameter]:
    """A command's own parameters, those of its groups of options, and the format."""
    for parameter in own:
        if parameter.kind is Parameter.VAR_KEYWORD:
            (groups,) = get_args(parameter.annotation)  # of Unpack[groups]
            for name, hint in get_type_hints(groups, include_extras=True).items():
                yield _option(name, *get_args(hint))
        elif parameter.name != "form":
            yield parameter.replace(kind=Parameter.KEYWORD_ONLY)
    yield _option("form", Format, typer.Option("human", "--format", help="How to print the result."))


def _option(name: str, kind: Any, option: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=option, annotation=kind)
