"""Every option that more than one command has, declared once, in groups.

A group is a TypedDict with a field for each option: its name is that of the operation's parameter, its
type what the operation takes, and beside it stand the default and the help. A command lists its groups,
in the order of its `--help`, and hands them on as `**options`; see `pipeline.commands.command`.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypedDict

from typer import Argument, Option

from pipeline.settings import HubCache

DTypeName = Literal["auto", "bfloat16", "float16", "float32"]
Codec = Literal["rans", "none"]

BASE_HELP = "Base checkpoint: org/name[@revision], a folder, a file or az://container/path."
CODEC_HELP = "Packed losslessly, or not, for other readers of safetensors."

Finished = Annotated[str, Argument(help="A delta, or a folder that apply wrote.", show_default=False)]
Prefix = Annotated[
    str | None,
    Argument(
        metavar="[PREFIX]",
        help="What names begin with, as in deltas/; or a location, as az://container/path.",
        show_default=False,
    ),
]
NewDelta = Annotated[str, Option(help="The delta to write: a name in the store, or a location.")]
Scaled = Annotated[list[str], Option(help="DELTA or DELTA=SCALE; may be given several times.")]
Scale = Annotated[float, Option(help="Scale of each delta that has none of its own.")]


class InStore(TypedDict):
    """Where plain names lie."""

    store: Annotated[
        str | None,
        Option(
            None,
            help="Folder or container where plain delta names lie. [default: PIPELINE_STORE, "
            "else the environment's Azure container, else ./store]",
        ),
    ]


class Packed(TypedDict):
    """The form of a new delta."""

    codec: Annotated[Codec, Option("rans", help=CODEC_HELP)]


class Proven(TypedDict):
    """Whose signature an input must have."""

    key: Annotated[
        str | None, Option(None, help="Public key or certificate (PEM) that must have signed.")
    ]
    require_signature: Annotated[
        bool, Option(False, "--require-signature", help="Refuse what is not signed.")
    ]


class OnDevice(TypedDict):
    """What computes."""

    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        Option("auto", help="What does the arithmetic; auto is the processor."),
    ]


class FromHub(TypedDict):
    """How weights are read from the Hub."""

    hub_cache: Annotated[
        HubCache | None,
        Option(
            None,
            help="Weights from the Hub: through its cache on the disk, or not (read by range, no file "
            "of weights). auto: where there is room. [default: PIPELINE_HUB_CACHE, else auto]",
        ),
    ]


class KeepingDigests(TypedDict):
    """Whether digests of what was read before are made again."""

    digest_cache: Annotated[
        str | None,
        Option(
            None,
            metavar="off|on|FOLDER",
            help="Keep digests of local weights, and do not make them again while a file is unchanged. "
            "[default: PIPELINE_DIGEST_CACHE, else off]",
        ),
    ]


class Dequantizing(TypedDict):
    """Whether weights that are codes are read as what they mean."""

    dequantize: Annotated[
        bool,
        Option(False, "--dequantize", help="Read fp8 weights, times their scales, as float32."),
    ]


class Bounded(TypedDict):
    """What the buffers may take."""

    memory: Annotated[
        str, Option("1GiB", help="Bound on buffers, whatever the models' size: 512MiB, 2GiB.")
    ]


class Working(Bounded):
    """What a walk may use."""

    workers: Annotated[
        int | None, Option(None, help="Threads that compute. [default: one per core]", min=1)
    ]


class Signed(TypedDict):
    """Whether the output is signed."""

    sign_key: Annotated[
        str | None,
        Option(
            None, help="Sign the output by this private key (PEM; password in PIPELINE_SIGN_PASSWORD)."
        ),
    ]


class InTier(TypedDict):
    """How a container keeps the output."""

    tier: Annotated[
        Literal["hot", "cool", "cold"] | None,
        Option(None, help="Access tier of blobs that are written. [default: the account's]"),
    ]


class Restarted(TypedDict):
    """Whether a run goes on from where one before it stopped."""

    restart: Annotated[
        bool,
        Option(False, "--restart", help="Ignore what an interrupted run of this command left in Azure."),
    ]


class ToHub(TypedDict):
    """Whether the finished output goes to the Hub, too."""

    push_to_hub: Annotated[
        str | None,
        Option(
            None,
            "--push-to-hub",
            help="Push the finished output to this Hub repository too: org/name.",
        ),
    ]


class Repository(TypedDict):
    """The Hub repository that is written."""

    private: Annotated[bool, Option(False, "--private", help="Make a new Hub repository private.")]
    revision: Annotated[
        str | None, Option(None, "--revision", help="The Hub repository's branch. [default: main]")
    ]


class Replacing(TypedDict):
    """What becomes of an output that is there already."""

    overwrite: Annotated[bool, Option(False, "--overwrite", help="Replace an existing output.")]


class Planned(TypedDict):
    """Whether anything is written at all."""

    dry_run: Annotated[
        bool, Option(False, "--dry-run", help="Check everything from headers; write nothing.")
    ]


class Published(Signed, InTier, Restarted, ToHub, Repository, Replacing, Planned):
    """How a long run's output comes to stand under its name."""
