"""inspect: what a delta or a checkpoint holds, from headers alone."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.checkpoints.adapters.post import find_adapter
from pipeline.checkpoints.adapters.weights import Adapter
from pipeline.checkpoints.alignment import is_absent
from pipeline.checkpoints.checkpoint import Checkpoint, open_checkpoint
from pipeline.checkpoints.header import Entry
from pipeline.deltas.delta import Delta, open_delta
from pipeline.deltas.manifest import Identity, Manifest
from pipeline.errors import IsAnAdapter, NotFound, UsageError
from pipeline.operations.arguments import names_a_delta
from pipeline.settings import Settings


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
    delta_l2: float | None = None
    base_l2: float | None = None
    delta_max: float | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a location holds. `facts` are its other properties, by name, ready to be shown."""

    location: str
    kind: Literal["checkpoint", "delta", "adapter"]
    tensors: Sequence[TensorLine]
    elements: int
    nbytes: int
    facts: dict[str, Any] = field(default_factory=dict)


def inspect(location: str, *, store: str | None = None, dequantize: bool = False) -> Inspection:
    """What the delta, checkpoint or adapter at `location` holds.

    Reads headers and manifests, never weights.

    dequantize: show weights in 8-bit floats as what they are read as.
    """
    settings = Settings.load(store=store, dequantize=dequantize)
    if names_a_delta(location):
        try:
            with open_delta(location, settings=settings) as delta:
                return _inspect_delta(delta)
        except UsageError:
            pass  # a safetensors file, but not a delta
        except NotFound:
            if not Path(location).exists():
                raise  # neither in the store nor here
    return _inspect_model(location, settings)


def _inspect_model(location: str, settings: Settings) -> Inspection:
    try:
        with open_checkpoint(location, settings=settings, headers_only=True) as model:
            return _inspect_checkpoint(model)
    except IsAnAdapter:
        with closing(find_adapter(location, settings)) as adapter:
            return _inspect_adapter(adapter)


def _inspect_adapter(adapter: Adapter) -> Inspection:
    """What is in the adapter's file, and what its config says; of each target how many modules."""
    config = adapter.config
    stored = [part for each in adapter.factors.values() for part in each.parts.values()]
    entries = [each.entry for each in (*stored, *adapter.whole.values())]
    targets = Counter(module.rpartition(".")[2] for module in adapter.factors)
    ranks = {config.rank_of(module) for module in adapter.factors}
    facts = {
        "revision": adapter.revision,
        "base_named": config.base,
        "base_revision": config.revision,
        "r": config.rank,
        "ranks": f"{min(ranks)} to {max(ranks)}" if len(ranks) > 1 else None,
        "alpha": config.alpha,
        "ways": [name for name in ("use_rslora", "use_dora") if getattr(config, name)] or None,
        "targets": [f"{name} ({count})" for name, count in targets.items()],
        "whole": [*adapter.whole],
        "companions": sorted(adapter.companions),
        "dtypes": sorted({entry.dtype.name for entry in entries}),
    }
    return Inspection(
        location=adapter.location,
        kind="adapter",
        tensors=_lines(entries),
        elements=sum(entry.count for entry in entries),
        nbytes=sum(entry.nbytes for entry in entries),
        facts={name: value for name, value in facts.items() if value is not None},
    )


def _lines(entries: Sequence[Entry]) -> list[TensorLine]:
    return [TensorLine(e.name, e.dtype.name, e.shape, e.nbytes) for e in entries]


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
        "derived": model.derived,
    }
    return Inspection(
        location=model.location,
        kind="checkpoint",
        tensors=_lines(entries),
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
                record.delta_l2,
                record.base_l2,
                record.delta_max,
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
            "fingerprint": str(manifest.fingerprint),
            **_identity("base", manifest.base),
            **_identity("post", manifest.post),
            **_rows(manifest),
            "ancestors": [(each.location, each.scale) for each in manifest.ancestors],
            "codec": manifest.codec,
            **_norms(manifest),
            "changed_share": changed / elements if elements else 0.0,
            "remainders": sum(record.remainders for record in manifest.tensors),
            "exceptions": sum(record.exceptions for record in manifest.tensors),
            "companions": sorted(delta.companions),
            "tool": manifest.tool,
        },
    )


def _identity(side: str, identity: Identity | None) -> dict[str, Any]:
    if identity is None:
        return {}
    found = {
        side: identity.location,
        f"{side}_revision": identity.revision,
        f"{side}_fingerprint": str(identity.fingerprint),
    }
    if identity.derived is not None:
        found[f"{side}_derived"] = identity.derived
    return found


def _rows(manifest: Manifest) -> dict[str, Any]:
    """What base has no counterpart of, and whether its rows were brought into post's order."""
    found: dict[str, Any] = {
        "only_post": [each.name for each in manifest.tensors if is_absent(each.base_shape, each.shape)]
    }
    if (rows := manifest.base_rows) is not None:
        new = sum(stop - start for start, stop in rows.order.absent)
        told = f"{rows.order.rows:,} of base in post's order, {new:,} only in post"
        found["rows"] = [f"{name}: {told}" for name in rows.tensors]
    return {name: value for name, value in found.items() if value}


def _norms(manifest: Manifest) -> dict[str, Any]:
    """The norms of the whole, where they are known."""
    found = {"delta_l2": manifest.delta_l2, "base_l2": manifest.base_l2}
    if found["base_l2"] and found["delta_l2"] is not None:
        found["relative_change"] = found["delta_l2"] / found["base_l2"]
    return {name: value for name, value in found.items() if value is not None}
