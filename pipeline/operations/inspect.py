"""inspect: what a delta or a checkpoint holds, from headers alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.checkpoints.checkpoint import Checkpoint, open_checkpoint
from pipeline.checkpoints.files import SAFETENSORS
from pipeline.deltas.delta import Delta, open_delta
from pipeline.errors import NotFound, UsageError
from pipeline.settings import Settings
from pipeline.storage.locations import parse_delta


@dataclass(frozen=True, slots=True)
class TensorLine:
    """One tensor as inspect shows it; the counts are a delta's."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    changed: int | None = None
    remainders: int | None = None
    exceptions: int | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a location holds. `facts` are its other properties, by name, ready to be shown."""

    location: str
    kind: Literal["checkpoint", "delta"]
    tensors: Sequence[TensorLine]
    elements: int
    nbytes: int
    facts: dict[str, Any] = field(default_factory=dict)


def inspect(location: str, *, store: str | None = None) -> Inspection:
    """What the delta or checkpoint at `location` holds. Reads headers and manifests, never weights."""
    settings = Settings.load(store=store)
    if _names_a_file(location):
        try:
            with open_delta(location, settings=settings) as delta:
                return _inspect_delta(delta)
        except UsageError:
            pass  # a safetensors file, but not a delta
        except NotFound:
            if not Path(location).exists():
                raise  # neither in the store nor here
    return _inspect_model(location, settings)


def _names_a_file(location: str) -> bool:
    """Whether `location` is one of a safetensors file, which may be a delta."""
    try:
        return parse_delta(location).path.endswith(SAFETENSORS)
    except UsageError:
        return False  # a model on the Hub


def _inspect_model(location: str, settings: Settings) -> Inspection:
    with open_checkpoint(location, settings=settings, headers_only=True) as model:
        return _inspect_checkpoint(model)


def _inspect_checkpoint(model: Checkpoint) -> Inspection:
    entries = [source.entry for source in model.tensors.values()]
    config = model.config or {}
    facts = {
        "revision": model.revision,
        "architectures": config.get("architectures"),
        "vocab_size": model.vocab_size,
        "files": len(model.readers),
        "companions": sorted(model.companions),
        "dtypes": sorted({entry.dtype.name for entry in entries}),
    }
    return Inspection(
        location=model.location,
        kind="checkpoint",
        tensors=[TensorLine(e.name, e.dtype.name, e.shape, e.nbytes) for e in entries],
        elements=sum(entry.count for entry in entries),
        nbytes=model.nbytes,
        facts={name: value for name, value in facts.items() if value is not None},
    )


def _inspect_delta(delta: Delta) -> Inspection:
    manifest = delta.manifest
    lines = []
    elements = 0
    for record in manifest.tensors:
        count = math.prod(record.shape)
        elements += count
        lines.append(
            TensorLine(
                record.name,
                record.stored.name,
                record.shape,
                count * record.stored.itemsize,
                record.changed,
                record.remainders,
                record.exceptions,
            )
        )
    changed = sum(record.changed for record in manifest.tensors)
    return Inspection(
        location=delta.location,
        kind="delta",
        tensors=lines,
        elements=elements,
        nbytes=delta.nbytes,
        facts={
            "base": manifest.base.location,
            "base_revision": manifest.base.revision,
            "base_fingerprint": str(manifest.base.fingerprint),
            "post": manifest.post.location,
            "post_revision": manifest.post.revision,
            "post_fingerprint": str(manifest.post.fingerprint),
            "codec": manifest.codec,
            "changed_share": changed / elements if elements else 0.0,
            "remainders": sum(record.remainders for record in manifest.tensors),
            "exceptions": sum(record.exceptions for record in manifest.tensors),
            "companions": sorted(delta.companions),
            "tool": manifest.tool,
        },
    )
