"""The three main commands: compute, apply and batch."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.commands.options import (
    BASE_HELP,
    Codec,
    CodecOption,
    Device,
    DeviceName,
    DryRun,
    DTypeName,
    Format,
    HubCache,
    Key,
    Memory,
    Output,
    Overwrite,
    Private,
    PushRevision,
    PushToHub,
    Required,
    Restart,
    SignKey,
    Store,
    Tier,
    Workers,
)
from pipeline.errors import StepFailed, UsageError


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
    hub_cache: HubCache = None,
    memory: Memory = "1GiB",
    workers: Workers = None,
    sign_key: SignKey = None,
    tier: Tier = None,
    restart: Restart = False,
    push_to_hub: PushToHub = None,
    private: Private = False,
    revision: PushRevision = None,
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
        hub_cache=hub_cache,
        memory=memory,
        workers=workers,
        sign_key=sign_key,
        tier=tier,
        restart=restart,
        push_to_hub=push_to_hub,
        private=private,
        revision=revision,
        overwrite=overwrite,
        dry_run=dry_run,
        progress=bar,
    )
    show(report, as_json=form is Format.JSON)


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
    hub_cache: HubCache = None,
    memory: Memory = "1GiB",
    workers: Workers = None,
    sign_key: SignKey = None,
    tier: Tier = None,
    restart: Restart = False,
    push_to_hub: PushToHub = None,
    private: Private = False,
    revision: PushRevision = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
    form: Output = Format.HUMAN,
) -> None:
    """Write base + scale · delta as a model folder.

    The folder has weights, config, tokenizer and a model card; transformers loads it.
    """
    from pipeline import apply as run
    from pipeline.operations.arguments import parse_scaled
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
        hub_cache=hub_cache,
        memory=memory,
        workers=workers,
        sign_key=sign_key,
        tier=tier,
        restart=restart,
        push_to_hub=push_to_hub,
        private=private,
        revision=revision,
        overwrite=overwrite,
        dry_run=dry_run,
        progress=bar,
    )
    show(report, as_json=form is Format.JSON)


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
