"""The options that operations share, each described once, and what they come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, TypedDict

from pipeline.deltas.signing import Signer
from pipeline.engine.schedule import Limits
from pipeline.engine.walk import Walker, walk
from pipeline.errors import UsageError
from pipeline.progress import Progressing, silent
from pipeline.settings import Settings
from pipeline.tensors.arithmetic import Arithmetic, CpuArithmetic
from pipeline.units import parse_bytes

DEFAULT_MEMORY = "1GiB"


class Running(TypedDict, total=False):
    """Options of everything that reads a delta or a model.

    store: where plain names of deltas are; see `Settings`. memory: bound on buffers, whatever the size
    of the models. workers: threads that compute, one for each core unless said otherwise. limits: in
    place of both, to be shared with other runs of this process. progress: is told of bytes that were
    moved.
    """

    store: str | None
    memory: str | int
    workers: int | None
    limits: Limits
    progress: Progressing


class Reading(Running, total=False):
    """Options of everything that reads models.

    hub_cache: whether weights go through the Hub's cache on the disk: "on", "off", or "auto", where
    there is room. digest_cache: where digests of local weights are kept from run to run: "off", "on"
    for the user's own cache, or a folder; a run that signs makes all anew. dequantize: whether weights
    in 8-bit floats are read as the float32 that they mean; otherwise they are refused.
    """

    hub_cache: str | None
    digest_cache: str | None
    dequantize: bool


class Writing(Running, total=False):
    """Options of everything that writes a delta or a model.

    overwrite: whether an output that is there already is replaced. dry_run: check everything from
    headers, write nothing. sign_key: private key (PEM) that signs the output. tier: access tier of
    blobs. restart: whether to ignore what an interrupted run of the same left. walker: does the work in
    place of this process.
    """

    overwrite: bool
    dry_run: bool
    sign_key: str | None
    tier: str | None
    restart: bool
    walker: Walker


class Transferring(Reading, Writing, total=False):
    """Options of compute and apply.

    device: auto, cpu or cuda; "auto" is the processor, for moving bytes is the limit and the arithmetic
    hides behind it. push_to_hub: a repository that gets the finished output too, on its branch
    `revision`, `private` if it is new; see `push`.
    """

    device: str
    push_to_hub: str | None
    private: bool
    revision: str | None


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run may use: limits, and the device that does the arithmetic."""

    limits: Limits
    device: str

    @classmethod
    def parse(
        cls,
        *,
        memory: str | int = DEFAULT_MEMORY,
        workers: int | None = None,
        device: str = "cpu",
        limits: Limits | None = None,
    ) -> Self:
        """Resources as people write them; `limits` in place of memory and workers. Raises UsageError."""
        if device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"{device!r} is not a device", hint="use auto, cpu or cuda")
        if device == "cuda":
            _require_cuda()
        limits = limits or Limits.of(parse_bytes(memory), workers)
        return cls(limits, "cuda" if device == "cuda" else "cpu")

    def arithmetic(self) -> Arithmetic:
        """A new instance for one worker."""
        if self.device == "cuda":
            from pipeline.tensors.torch_arithmetic import TorchArithmetic

            return TorchArithmetic("cuda")
        return CpuArithmetic()


@dataclass(frozen=True, slots=True)
class Setup:
    """What an operation's options come to; see there for each."""

    settings: Settings
    resources: Resources
    progress: Progressing = silent
    overwrite: bool = False
    dry_run: bool = False
    signer: Signer | None = None
    restart: bool = False
    walker: Walker = walk
    push_to_hub: str | None = None
    private: bool = False
    revision: str | None = None

    @classmethod
    def of(cls, options: Running) -> Self:
        """The setup that `options` ask for.

        Raises TypeError for an option that there is not, UsageError for a value that means nothing.
        """
        given: dict[str, Any] = {**options}
        if unknown := given.keys() - Transferring.__annotations__.keys():
            raise TypeError(f"there is no option {', '.join(sorted(unknown))}")
        loaded = Settings.load(
            **_take(given, "store", "tier", "hub_cache", "digest_cache", "dequantize")
        )
        resources = Resources.parse(**_take(given, "memory", "workers", "device", "limits"))
        key = given.pop("sign_key", None)
        signer = Signer.load(key, loaded.sign_password) if key else None
        if signer:  # for what it has not seen itself, nobody signs
            loaded = replace(loaded, digest_cache=None)
        return cls(loaded, resources, signer=signer, **given)


def _take(options: dict[str, Any], *names: str) -> Mapping[str, Any]:
    """Those of `options` that are there, taken out of them."""
    return {name: options.pop(name) for name in names if name in options}


def _require_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        raise UsageError("no CUDA device was found", hint="use --device cpu: it is rarely slower")
