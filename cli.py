"""The command line: every command of `pipeline.commands`, and how a failure ends."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

import typer

from pipeline.commands.artefacts import combine, convert, inspect, verify
from pipeline.commands.doctor import doctor
from pipeline.commands.hub import push
from pipeline.commands.storing import clean, copy, delete, list_store
from pipeline.commands.transfer import apply, batch, compute
from pipeline.errors import PipelineError, UsageError
from pipeline.redaction import redacting
from pipeline.settings import Settings

app = typer.Typer(
    name="cli.py",
    help="Move what post-training taught a model onto the next base model: delta = post − base, "
    "new post = new base + scale · delta.",
    epilog="--debug, anywhere, shows the traceback of an error. Exit codes: 0 done, 2 usage or config, "
    "3 the work could not be done, 5 credentials or network, 6 damaged, 7 another checkpoint than the "
    "delta's, 8 unsigned, 9 bad signature, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
COMMANDS: dict[str, Callable[..., None]] = {
    "compute": compute,
    "apply": apply,
    "batch": batch,
    "inspect": inspect,
    "verify": verify,
    "combine": combine,
    "convert": convert,
    "list": list_store,
    "copy": copy,
    "delete": delete,
    "clean": clean,
    "push": push,
    "doctor": doctor,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


_SILENCE = logging.NullHandler()
_TALKATIVE = ("azure", "msal", "urllib3")  # they warn of each try before the error that counts


def main() -> None:
    """Run one command and exit with a code that `pipeline.errors` documents.

    Nothing that is printed or logged on the way shows a secret.
    """
    debug = "--debug" in sys.argv  # allowed anywhere, so that it can be added to a failed command
    words = [word for word in sys.argv[1:] if word != "--debug"]
    with redacting():
        try:
            with _logging(Settings.load()):
                app(words, prog_name="cli.py")
        except PipelineError as error:
            _end(f"error: {' '.join(str(error).split())}", error.exit_code, debug=debug)
        except Exception as error:
            text = f"{type(error).__name__}: {' '.join(str(error).split())}"
            hint = "run it again with --debug, and report what it says"
            _end(f"error: a bug in this tool: {text} ({hint})", 1, debug=debug)


@contextmanager
def _logging(settings: Settings) -> Iterator[None]:
    """Log to standard error from the level that PIPELINE_LOG names; our errors say enough without it."""
    if settings.log is None:
        for name in _TALKATIVE:
            logging.getLogger(name).addHandler(_SILENCE)
        yield
        return
    level = logging.getLevelNamesMapping().get(settings.log.upper())
    if level is None:
        raise UsageError(f"PIPELINE_LOG={settings.log!r} is no level", hint="use DEBUG, INFO or WARNING")
    root, handler = logging.getLogger(), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger("numba").setLevel(max(level, logging.WARNING))  # it would tell of every byte
    before = root.level
    root.addHandler(handler)
    root.setLevel(level)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)


def _end(text: str, code: int, *, debug: bool) -> NoReturn:
    """Say how the command failed, with its traceback if that was asked for, and exit."""
    if debug:
        traceback.print_exc()
    else:
        print(text, file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
