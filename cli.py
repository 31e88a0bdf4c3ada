"""The command line: parse, call one operation, show what it returns. No logic of its own.

Start-up is kept light: an operation, and with it numpy, numba or the Azure SDK, is imported only by the
command that needs it.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer

from pipeline.errors import PipelineError, StepFailed, UsageError

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


class Format(StrEnum):
    """How a result is printed."""

    HUMAN = "human"
    JSON = "json"


class DTypeName(StrEnum):
    """Float formats by torch's names; auto keeps what the models have."""

    AUTO = "auto"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


class Codec(StrEnum):
    """How a delta's tensors are packed: losslessly, or as any safetensors reader can use them."""

    RANS = "rans"
    NONE = "none"


class DeviceName(StrEnum):
    """What does the arithmetic; auto is the processor, for moving bytes is the limit."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


Store = Annotated[
    str | None,
    typer.Option(
        help="Folder or container where plain delta names lie. [default: PIPELINE_STORE, "
        "else the environment's Azure container, else ./store]"
    ),
]
Device = Annotated[DeviceName, typer.Option(help="What does the arithmetic; auto is the processor.")]
Memory = Annotated[str, typer.Option(help="Bound on buffers, whatever the models' size: 512MiB, 2GiB.")]
Workers = Annotated[
    int | None, typer.Option(help="Threads that compute. [default: one per core]", min=1)
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check everything from headers; write nothing.")]
Output = Annotated[Format, typer.Option("--format", help="How to print the result.")]
Key = Annotated[str | None, typer.Option(help="Public key or certificate (PEM) that must have signed.")]
Required = Annotated[bool, typer.Option("--require-signature", help="Refuse what is not signed.")]
SignKey = Annotated[
    str | None,
    typer.Option(help="Sign the output by this private key (PEM; password in PIPELINE_SIGN_PASSWORD)."),
]
CodecOption = Annotated[
    Codec, typer.Option(help="Packed losslessly, or not, for other readers of safetensors.")
]
BASE_HELP = "Base checkpoint: org/name[@revision], a folder, a file or az://container/path."


@app.command()
def compute(
    base: Annotated[str, typer.Option(help=BASE_HELP)],
    post: Annotated[str, typer.Option(help="Its post-trained version.")],
    output: Annotated[str, typer.Option(help="The delta to write: a name in the store, or a location.")],
    store: Store = None,
    dtype: Annotated[
        DTypeName, typer.Option(help="Storage format; the delta is exact in any.")
    ] = DTypeName.AUTO,
    codec: CodecOption = Codec.RANS,
    device: Device = DeviceName.AUTO,
    memory: Memory = "1GiB",
    workers: Workers = None,
    sign_key: SignKey = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    form: Output = Format.HUMAN,
) -> None:
    """Write post − base as a delta file.

    The file restores post bit for bit on its own base, and adds exactly to any other.
    """
    from pipeline import compute as run
    from pipeline.progress import bar
    from pipeline.rendering import show

    report = run(
        base,
        post,
        output,
        store=store,
        dtype=dtype,
        codec=codec,
        device=device,
        memory=memory,
        workers=workers,
        sign_key=sign_key,
        overwrite=overwrite,
        dry_run=dry_run,
        progress=bar,
    )
    show(report, as_json=form is Format.JSON)


@app.command()
def apply(
    base: Annotated[str, typer.Option(help="The checkpoint that receives it: " + BASE_HELP)],
    delta: Annotated[list[str], typer.Option(help="DELTA or DELTA=SCALE; may be given several times.")],
    output: Annotated[str, typer.Option(help="The model folder to write.")],
    scale: Annotated[float, typer.Option(help="Scale of each delta that has none of its own.")] = 1.0,
    store: Store = None,
    dtype: Annotated[
        DTypeName, typer.Option(help="Format of the result's floats; auto is the base's own.")
    ] = DTypeName.AUTO,
    shard_size: Annotated[str, typer.Option(help="Largest weight file.")] = "5GiB",
    old_base: Annotated[
        str | None, typer.Option(help="The delta's own base: says how far the new one is from it.")
    ] = None,
    key: Key = None,
    require_signature: Required = False,
    device: Device = DeviceName.AUTO,
    memory: Memory = "1GiB",
    workers: Workers = None,
    sign_key: SignKey = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    form: Output = Format.HUMAN,
) -> None:
    """Write base + scale · delta as a model folder.

    The folder has weights, config, tokenizer and a model card; transformers loads it.
    """
    from pipeline import apply as run
    from pipeline.operations.common import parse_scaled
    from pipeline.progress import bar
    from pipeline.rendering import show

    report = run(
        base,
        [parse_scaled(text, scale) for text in delta],
        output,
        store=store,
        dtype=dtype,
        shard_size=shard_size,
        old_base=old_base,
        key=key,
        require_signature=require_signature,
        device=device,
        memory=memory,
        workers=workers,
        sign_key=sign_key,
        overwrite=overwrite,
        dry_run=dry_run,
        progress=bar,
    )
    show(report, as_json=form is Format.JSON)


@app.command()
def batch(
    config: Annotated[str | None, typer.Argument(help="The JSON config.", show_default=False)] = None,
    config_option: Annotated[str | None, typer.Option("--config", help="The same as an option.")] = None,
    only: Annotated[str | None, typer.Option(help="Run this step alone.")] = None,
    dry_run: DryRun = False,
    form: Output = Format.HUMAN,
) -> None:
    """Run the steps of a JSON config.

    Steps compute and apply; they refer to each other's results by id.
    """
    if (config is None) == (config_option is None):
        raise UsageError("batch needs one config", hint="cli.py batch configs/quickstart.json")
    from pipeline import run_batch
    from pipeline.progress import bar
    from pipeline.rendering import show_batch, show_step

    as_json = form is Format.JSON
    report = run_batch(
        config or config_option or "",
        only=only,
        dry_run=dry_run,
        progress=bar,
        on_step=None if as_json else show_step,
    )
    show_batch(report, as_json=as_json)
    if not report.ok:
        failed = ", ".join(step.id for step in report.steps if step.status == "failed")
        raise StepFailed(f"failed: {failed}", hint="the report says why")


@app.command()
def inspect(
    location: Annotated[str, typer.Argument(help="A delta or a checkpoint.", show_default=False)],
    store: Store = None,
    form: Output = Format.HUMAN,
) -> None:
    """Show what a delta or a model holds.

    Only headers and manifests are read.
    """
    from pipeline import inspect as run
    from pipeline.rendering import show_inspection

    show_inspection(run(location, store=store), as_json=form is Format.JSON)


@app.command()
def verify(
    location: Annotated[
        str, typer.Argument(help="A delta, or a folder that apply wrote.", show_default=False)
    ],
    base: Annotated[str | None, typer.Option(help="Is this the very base of the delta?")] = None,
    post: Annotated[
        str | None, typer.Option(help="Is this its post? With --base: does it come back bit for bit?")
    ] = None,
    key: Key = None,
    require_signature: Required = False,
    store: Store = None,
    memory: Memory = "1GiB",
    workers: Workers = None,
    form: Output = Format.HUMAN,
) -> None:
    """Prove that a delta or a model is whole, and whose it is.

    Exits with 6 if it is damaged, 7 if base or post is another, 8 if unsigned, 9 if badly signed.
    """
    from pipeline import verify as run
    from pipeline.progress import bar
    from pipeline.rendering import show

    report = run(
        location,
        base=base,
        post=post,
        key=key,
        require_signature=require_signature,
        store=store,
        memory=memory,
        workers=workers,
        progress=bar,
    )
    show(report, as_json=form is Format.JSON)


@app.command()
def combine(
    delta: Annotated[list[str], typer.Option(help="DELTA or DELTA=SCALE; may be given several times.")],
    output: Annotated[str, typer.Option(help="The delta to write: a name in the store, or a location.")],
    scale: Annotated[float, typer.Option(help="Scale of each delta that has none of its own.")] = 1.0,
    store: Store = None,
    codec: CodecOption = Codec.RANS,
    memory: Memory = "1GiB",
    workers: Workers = None,
    sign_key: SignKey = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    form: Output = Format.HUMAN,
) -> None:
    """Write the sum of scale · delta as a new delta.

    It adds to any base as its parts would together, rounded once, and says what they were.
    """
    from pipeline import combine as run
    from pipeline.operations.common import parse_scaled
    from pipeline.progress import bar
    from pipeline.rendering import show

    report = run(
        [parse_scaled(text, scale) for text in delta],
        output,
        store=store,
        codec=codec,
        memory=memory,
        workers=workers,
        sign_key=sign_key,
        overwrite=overwrite,
        dry_run=dry_run,
        progress=bar,
    )
    show(report, as_json=form is Format.JSON)


@app.command()
def convert(
    delta: Annotated[str, typer.Argument(help="The delta to read.", show_default=False)],
    output: Annotated[str, typer.Option(help="The delta to write: a name in the store, or a location.")],
    codec: CodecOption,
    store: Store = None,
    memory: Memory = "1GiB",
    workers: Workers = None,
    sign_key: SignKey = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    form: Output = Format.HUMAN,
) -> None:
    """Write the same delta packed, or unpacked for other readers.

    Every digest is checked on the way.
    """
    from pipeline import convert as run
    from pipeline.progress import bar
    from pipeline.rendering import show

    report = run(
        delta,
        output,
        codec=codec,
        store=store,
        memory=memory,
        workers=workers,
        sign_key=sign_key,
        overwrite=overwrite,
        dry_run=dry_run,
        progress=bar,
    )
    show(report, as_json=form is Format.JSON)


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
