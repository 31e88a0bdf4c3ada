"""Options that several commands have, each with its one help text."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


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


class HubCacheMode(StrEnum):
    """Whether weights from the Hub go through its cache on the disk; auto is where there is room."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class TierName(StrEnum):
    """Azure's access tiers, from quick and dear to slow and cheap to keep."""

    HOT = "hot"
    COOL = "cool"
    COLD = "cold"


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
Tier = Annotated[
    TierName | None,
    typer.Option(help="Access tier of blobs that are written. [default: the account's]"),
]
Restart = Annotated[
    bool, typer.Option("--restart", help="Ignore what an interrupted run of this command left in Azure.")
]
CodecOption = Annotated[
    Codec, typer.Option(help="Packed losslessly, or not, for other readers of safetensors.")
]
HubCache = Annotated[
    HubCacheMode | None,
    typer.Option(
        help="Weights from the Hub: through its cache on the disk, or not (read by range, no file of "
        "weights). auto: where there is room. [default: PIPELINE_HUB_CACHE, else auto]"
    ),
]
PushToHub = Annotated[
    str | None,
    typer.Option("--push-to-hub", help="Push the finished output to this Hub repository too: org/name."),
]
Private = Annotated[bool, typer.Option("--private", help="Make a new Hub repository private.")]
PushRevision = Annotated[
    str | None, typer.Option("--revision", help="The Hub repository's branch. [default: main]")
]
BASE_HELP = "Base checkpoint: org/name[@revision], a folder, a file or az://container/path."
