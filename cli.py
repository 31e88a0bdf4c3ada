"""The command line: every command of `pipeline.commands`, under its name."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable

import typer

from pipeline.commands.adapters import extract_adapter
from pipeline.commands.analyze import analyze
from pipeline.commands.artefacts import combine, convert, inspect, push, verify
from pipeline.commands.batch import batch
from pipeline.commands.endings import ending
from pipeline.commands.gating import gate, publish
from pipeline.commands.pages import catalog, page
from pipeline.commands.quality import evaluate
from pipeline.commands.storing import clean, copy, delete, doctor, list_store
from pipeline.commands.sweep import sweep
from pipeline.commands.transfer import apply, compute
from pipeline.logs import logging_from
from pipeline.redaction import redacting
from pipeline.settings import Settings

app = typer.Typer(
    name="cli.py",
    help="Move what post-training taught a model onto the next base model: delta = post − base, "
    "new post = new base + scale · delta.",
    epilog="--debug, anywhere, shows the traceback of an error. Exit codes: 0 done, 2 usage or config, "
    "3 the work could not be done, 4 refused by a gate, 5 credentials or network, 6 damaged, 7 another "
    "checkpoint than the delta's, 8 unsigned, 9 bad signature, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Python looks for cycles after every 700 new objects. A model of many tensors makes millions of objects
# and no cycles, and a fifth of its run would go by looking.
COLLECTED_AFTER = (20_000, 20, 20)
COMMANDS: dict[str, Callable[..., None]] = {
    "compute": compute,
    "apply": apply,
    "evaluate": evaluate,
    "sweep": sweep,
    "batch": batch,
    "gate": gate,
    "publish": publish,
    "inspect": inspect,
    "verify": verify,
    "analyze": analyze,
    "combine": combine,
    "convert": convert,
    "extract-adapter": extract_adapter,
    "list": list_store,
    "copy": copy,
    "delete": delete,
    "clean": clean,
    "push": push,
    "page": page,
    "catalog": catalog,
    "doctor": doctor,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


def main() -> None:
    """Run one command and exit with a code that `pipeline.errors` documents.

    Nothing that is printed or logged on the way shows a secret.
    """
    gc.set_threshold(*COLLECTED_AFTER)
    debug = "--debug" in sys.argv  # allowed anywhere, so that it can be added to a failed command
    words = [word for word in sys.argv[1:] if word != "--debug"]
    with redacting(), ending(debug=debug), logging_from(Settings.load().log):
        app(words, prog_name="cli.py")


if __name__ == "__main__":
    main()
