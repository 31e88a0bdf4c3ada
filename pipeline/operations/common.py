"""What compute and apply share: options, and a checkpoint's or delta's tensors as inputs of a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from numpy.typing import NDArray

from pipeline.checkpoints.checkpoint import Checkpoint, Source
from pipeline.checkpoints.files import PICKLES, SAFETENSORS, Folder, read_all
from pipeline.deltas.signing import MAX_SIGNATURE_BYTES, SUFFIX
from pipeline.engine.journal import Journal
from pipeline.engine.plan import Input
from pipeline.engine.walk import Limits
from pipeline.errors import BadSignature, UsageError
from pipeline.storage.base import Store
from pipeline.storage.locations import Scheme, parse_delta, split_scale
from pipeline.tensors.arithmetic import Arithmetic, CpuArithmetic
from pipeline.tensors.fingerprint import Digest
from pipeline.units import parse_bytes

Device = Literal["auto", "cpu", "cuda"]
DEFAULT_MEMORY = "1GiB"


@dataclass(frozen=True, slots=True)
class Resources:
    """What a run may use: limits, and the device that does the arithmetic."""

    limits: Limits
    device: str

    @classmethod
    def parse(cls, *, memory: str | int, workers: int | None, device: str) -> Resources:
        """Resources from a command's options. Raises UsageError.

        "auto" is the processor: moving bytes is the limit here, and the arithmetic hides behind it.
        """
        if device not in ("auto", "cpu", "cuda"):
            raise UsageError(f"{device!r} is not a device", hint="use auto, cpu or cuda")
        if device == "cuda":
            _require_cuda()
        return cls(Limits.of(parse_bytes(memory), workers), "cuda" if device == "cuda" else "cpu")

    def arithmetic(self) -> Arithmetic:
        """A new instance for one worker."""
        if self.device == "cuda":
            from pipeline.tensors.torch_arithmetic import TorchArithmetic

            return TorchArithmetic("cuda")
        return CpuArithmetic()


def _require_cuda() -> None:
    import torch

    if not torch.cuda.is_available():
        raise UsageError("no CUDA device was found", hint="use --device cpu: it is rarely slower")


def parse_scaled(text: str, scale: float) -> tuple[str, float]:
    """A delta's location and its scale from "DELTA" or "DELTA=SCALE"; `scale` is the default."""
    location, number = split_scale(text)
    if number is None:
        return text, scale
    try:
        return location, float(number)
    except ValueError:
        raise UsageError(f"{number!r} is not a scale", where=text, hint="write DELTA=0.5") from None


def names_a_delta(location: str) -> bool:
    """Whether `location` is one of a file that may be a delta: by its name, or because it is there."""
    try:
        where = parse_delta(location)
    except UsageError:
        return False  # a model on the Hub
    is_file = where.scheme is Scheme.LOCAL and Path(where.path).is_file()
    return where.path.endswith(SAFETENSORS) or (is_file and not where.path.endswith(PICKLES))


def find_signature(store: Folder, name: str) -> bytes | None:
    """The signature beside what is called `name`, or None. Raises BadSignature if it is too long."""
    found = store.stat(name + SUFFIX)
    if found is None:
        return None
    if found.nbytes > MAX_SIGNATURE_BYTES:
        raise BadSignature(f"{found.nbytes} bytes are too many for a signature", where=name + SUFFIX)
    reader = store.open(name + SUFFIX)
    try:
        return read_all(reader)
    finally:
        reader.close()


def start_journal(
    store: Store,
    name: str,
    key: Callable[[], Digest],
    tables: Sequence[NDArray[Any]],
    *,
    signs: bool,
    restart: bool,
) -> Journal | None:
    """The journal of a run that writes `name`; see `Journal`. None for one that signs.

    Who may write to the store could otherwise have digests signed whose content nobody has seen.
    """
    return None if signs else Journal(store, name, key, tables, restart=restart)


def as_input(source: Source, first_reader: int = 0) -> Input:
    """A checkpoint's tensor as an input, its readers being numbered from `first_reader`."""
    entry = source.entry
    return Input(first_reader + source.file, entry.offset, entry.dtype.itemsize, entry.count)


def tokenizer_of(checkpoint: Checkpoint) -> bytes | None:
    """The content of a checkpoint's tokenizer.json, if it has one."""
    reader = checkpoint.companions.get("tokenizer.json")
    return read_all(reader) if reader else None
