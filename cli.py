"""The command line: every command of `pipeline.commands`, under its name."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

from pipeline.commands.endings import ending
from pipeline.logs import logging_from
from pipeline.redaction import redacting
from pipeline.settings import Settings

# Python looks for cycles after every 700 new objects. A model of many tensors makes millions of objects
# and no cycles, and a fifth of its run would go by looking.
COLLECTED_AFTER = (20_000, 20, 20)
COMMANDS = {
    "compute": "transfer.compute",
    "apply": "transfer.apply",
    "evaluate": "quality.evaluate",
    "sweep": "sweep.sweep",
    "batch": "batch.batch",
    "gate": "gating.gate",
    "publish": "gating.publish",
    "inspect": "artefacts.inspect",
    "verify": "artefacts.verify",
    "analyze": "analyze.analyze",
    "combine": "artefacts.combine",
    "convert": "artefacts.convert",
    "extract-adapter": "adapters.extract_adapter",
    "list": "storing.list_store",
    "copy": "storing.copy",
    "delete": "storing.delete",
    "clean": "storing.clean",
    "push": "artefacts.push",
    "page": "pages.page",
    "catalog": "pages.catalog",
    "doctor": "storing.doctor",
}


def command(name: str) -> Callable[..., None]:
    """The function behind a command."""
    module, _, function = COMMANDS[name].partition(".")
    found: Callable[..., None] = getattr(import_module(f"pipeline.commands.{module}"), function)
    return found


class Commands(TyperGroup):
    """The commands, each imported when it is asked for: a run needs one of them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """All names, in the order of the help."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of that name. None if there is no such, and all are known, to suggest one."""
        for name in [cmd_name] if cmd_name in COMMANDS else COMMANDS:
            if name not in self.commands:
                alone = typer.Typer(add_completion=False, rich_markup_mode=None)
                alone.command(name)(command(name))
                self.add_command(typer.main.get_command(alone))
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    name="cli.py",
    cls=Commands,
    help="Move what post-training taught a model onto the next base model: delta = post − base, "
    "new post = new base + scale · delta.",
    epilog="--debug, anywhere, shows the traceback of an error. Exit codes: 0 done, 2 usage or config, "
    "3 the work could not be done, 4 refused by a gate, 5 credentials or network, 6 damaged, 7 another "
    "checkpoint than the delta's, 8 unsigned, 9 bad signature, 130 interrupted.",
    callback=lambda: None,  # what Typer tells a group by, where no command is registered
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run one command and exit with a code that `pipeline.errors` documents.

    Nothing that is printed or logged on the way shows a secret.
    """
    gc.set_threshold(*COLLECTED_AFTER)
    atexit.register(gc.freeze)  # else it would look through all that is left once more, on the way out
    debug = "--debug" in sys.argv  # allowed anywhere, so that it can be added to a failed command
    words = [word for word in sys.argv[1:] if word != "--debug"]
    with redacting(), ending(debug=debug), logging_from(Settings.load().log):
        app(words, prog_name="cli.py")


if __name__ == "__main__":
    main()
