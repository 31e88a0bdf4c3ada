"""The command line: every command of `pipeline.commands`, and how a failure ends."""

from __future__ import annotations

import sys

import typer

from pipeline.commands.artefacts import combine, convert, inspect, verify
from pipeline.commands.transfer import apply, batch, compute
from pipeline.errors import PipelineError

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
for command in (compute, apply, batch, inspect, verify, combine, convert):
    app.command()(command)


def main() -> None:
    """Run one command and exit with a code that `pipeline.errors` documents."""
    debug = "--debug" in sys.argv  # allowed anywhere, so that it can be added to a failed command
    words = [word for word in sys.argv[1:] if word != "--debug"]
    try:
        app(words, prog_name="cli.py")
    except PipelineError as error:
        if debug:
            raise
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception as error:
        if debug:
            raise
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        hint = "run it again with --debug, and report what it says"
        print(f"error: a bug in this tool: {text} ({hint})", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
