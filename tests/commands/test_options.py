"""Options are declared once, in groups; a command is its operation with these, and a report."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypedDict, Unpack, get_args, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

import cli
import pipeline
from pipeline.commands.command import command
from pipeline.errors import StepFailed
from pipeline.operations.setup import DEFAULT_MEMORY
from pipeline.units import parse_bytes

# Of operations that are called otherwise.
NAMES = {"list": "list_store", "batch": "run_batch", "extract-adapter": "extract_adapter"}
# What a command reads in its own way before it calls the operation, or keeps to itself.
ITS_OWN = {"form", "yes", "config", "config_option", "junit", "summary", "repository", "delta", "scale"}


def options_of(name: str) -> dict[str, Any]:
    """A command's own parameters, each with its default."""
    parameters = inspect.signature(cli.command(name)).parameters.values()
    defaults = {each.name: getattr(each.default, "default", each.default) for each in parameters}
    return {name: default for name, default in defaults.items() if name not in ITS_OWN}


def accepted(operation: Callable[..., Any]) -> dict[str, Any]:
    """The parameters of an operation, those of its groups too, each with its default if it says one."""
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(operation).parameters.items():
        if parameter.kind is inspect.Parameter.VAR_KEYWORD:
            (group,) = get_args(get_type_hints(operation)[name])
            found |= dict.fromkeys(get_type_hints(group), inspect.Parameter.empty)
        else:
            found[name] = parameter.default
    return found


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_option_is_the_operation_s_and_has_its_default(name: str) -> None:
    wanted = accepted(getattr(pipeline, NAMES.get(name, name)))
    if name == "sweep":  # hands on what apply is to do
        wanted = {**accepted(pipeline.apply), **wanted}
    for option, default in options_of(name).items():
        assert option in wanted
        expected = wanted[option]
        if isinstance(expected, int) and isinstance(default, str):
            default = parse_bytes(default)
        unsaid = inspect.Parameter.empty in (default, expected) or default is ...
        assert unsaid or default == expected, option


def test_the_memory_that_help_shows_is_what_a_run_gets() -> None:
    assert options_of("compute")["memory"] == DEFAULT_MEMORY


@dataclass(frozen=True)
class Report:
    told: str
    ok: bool


class Told(TypedDict):
    word: Annotated[str, typer.Option("nothing", help="What to say.")]


def refuse(report: Report) -> None:
    if not report.ok:
        raise StepFailed("it did not go well")


@pytest.fixture
def invoke() -> Any:
    """Run a command that reports the word that it is given."""

    @command(lambda report: print("told", report.told), judge=refuse)
    def tell(times: int, **options: Unpack[Told]) -> Report:
        """Say a word."""
        return Report(options["word"] * times, ok=times > 0)

    app = typer.Typer(rich_markup_mode=None)
    app.command()(tell)
    return lambda *words: CliRunner().invoke(app, words)


def test_a_command_shows_what_its_function_returns(invoke: Any) -> None:
    assert invoke("2").output == "told nothingnothing\n"
    assert invoke("1", "--word", "yes").output == "told yes\n"
    assert json.loads(invoke("1", "--format", "json").output) == {"ok": True, "told": "nothing"}


def test_a_report_is_shown_before_it_is_judged(invoke: Any) -> None:
    done = invoke("0", "--format", "json")
    assert isinstance(done.exception, StepFailed)
    assert json.loads(done.output)["ok"] is False


def test_help_shows_a_group_s_options_and_the_format_last(invoke: Any) -> None:
    lines = invoke("--help").output
    assert lines.index("--word") < lines.index("What to say") < lines.index("--format")
    assert "human|json" in lines
