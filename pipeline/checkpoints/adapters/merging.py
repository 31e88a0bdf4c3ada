"""An adapter merged into its base: a view of the base in which adapted tensors are made on the way.

What the adapter leaves alone is read where base has it; what it holds whole is read from its file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.checkpoints.adapters.adapted import AdaptedCheckpoint
from pipeline.checkpoints.adapters.merged import Factor, Kept, Magnitude, Merged
from pipeline.checkpoints.adapters.naming import Places, is_conv1d
from pipeline.checkpoints.adapters.tying import tie
from pipeline.checkpoints.adapters.weights import Adapter, Factors, Stored
from pipeline.checkpoints.alignment import show
from pipeline.checkpoints.checkpoint import Checkpoint, Source
from pipeline.checkpoints.derived import DerivedReader
from pipeline.checkpoints.policy import with_vocab_size
from pipeline.checkpoints.ties import names_of
from pipeline.errors import Mismatch, UsageError
from pipeline.storage.base import Reader
from pipeline.storage.locations import Scheme, parse_model

_EXPERT, _STACKED = re.compile(r"\.experts\.\d+\."), re.compile(r"\.experts\.[a-z_]+\Z")


def merge(base: Checkpoint, adapter: Adapter) -> AdaptedCheckpoint:
    """The view of `base` with `adapter` merged into it.

    Raises Mismatch with every tensor of the adapter that base has no place for, and NotACheckpoint for
    tied embeddings that merging would tear apart.
    """
    places = Places(base)
    problems: list[str] = []
    whole = {places.find(name) or name: stored for name, stored in adapter.whole.items()}
    own: list[Reader] = [*adapter.readers, *adapter.companions.values()]
    tensors = {name: (base.readers[s.file], s.entry) for name, s in base.tensors.items()}
    config = dict(base.config) if base.config is not None else None
    tie(adapter, whole, names_of(base), tensors, config)
    for name, stored in whole.items():
        problems += _replace(name, stored, tensors, base.vocab_size, config)
    kept = Kept()
    merged: dict[str, Merged] = {}
    for module, factors in adapter.factors.items():
        weight = places.find(f"{module}.weight")
        if weight is None:
            problems.append(f"{module} is in the adapter only{_why_absent(module, base)}")
            continue
        target = Stored(tensors[weight][1], tensors[weight][0])
        conv1d = is_conv1d(base.config, module)
        made = _derive(target, module, factors, adapter, kept, conv1d)
        if isinstance(made, Merged):
            merged[weight] = made
        else:
            problems += made
    if problems:
        raise Mismatch(
            problems,
            where=f"{base.location} and {adapter.location}",
            hint="was the adapter trained on this base? see base_model_name_or_path in its config",
        )
    if merged:
        file = DerivedReader(f"{adapter.location} on {base.location}", merged)
        tensors.update({entry.name: (file, entry) for entry in file.entries})
    return _view(base, adapter, tensors, config, own)


def _view(
    base: Checkpoint,
    adapter: Adapter,
    tensors: Mapping[str, tuple[Reader, Any]],
    config: Mapping[str, Any] | None,
    own: Sequence[Reader],
) -> AdaptedCheckpoint:
    readers = list({id(reader): reader for reader, _ in tensors.values()}.values())
    numbers = {id(reader): number for number, reader in enumerate(readers)}
    return AdaptedCheckpoint(
        location=adapter.location,
        revision=None,
        tensors={name: Source(entry, numbers[id(reader)]) for name, (reader, entry) in tensors.items()},
        readers=readers,
        config=config,
        companions={**base.companions, **adapter.companions},
        derived=base.derived,
        own=own,
        notes=_notes(base, adapter),
    )


def _notes(base: Checkpoint, adapter: Adapter) -> list[str]:
    """Where the adapter says that it was trained on another base."""
    said = adapter.config.base
    if said is None:
        return []
    try:
        where, ours = parse_model(said), parse_model(base.location)
    except UsageError:
        return ["the adapter says that it was trained on a base whose name is no location"]
    is_same = (where.scheme, where.path) == (ours.scheme, ours.path)
    if where.scheme is ours.scheme is Scheme.LOCAL:
        is_same = Path(where.path).resolve() == Path(ours.path).resolve()
    revision = adapter.config.revision
    if is_same and revision in (None, base.revision):
        return []
    at = f"@{revision}" if revision else ""
    return [f"the adapter says that it was trained on {where}{at}, not on {base.location}"]


def _why_absent(module: str, base: Checkpoint) -> str:
    """Why a base may lack a module: transformers 5 may have written its experts as one tensor."""
    is_stacked = _EXPERT.search(module) and any(map(_STACKED.search, base.tensors))
    return ": base has its experts as one tensor" if is_stacked else ""


def _replace(
    name: str,
    stored: Stored,
    tensors: dict[str, tuple[Reader, Any]],
    vocab: int | None,
    config: dict[str, Any] | None,
) -> list[str]:
    """Put a tensor that the adapter holds whole into its place; returns why that can't be."""
    if name not in tensors:
        return [f"{name} is in the adapter only"]
    old, new = tensors[name][1].shape, stored.entry.shape
    # Grown, or cut to the tokenizer's length where base has padding: what PEFT saves after a resize.
    resized = config is not None and bool(old) and bool(new) and old[1:] == new[1:] and old[0] == vocab
    if old != new and not resized:
        return [f"{name} is {show(old)} in base, {show(new)} in the adapter"]
    if config is not None and old != new:
        config.update(with_vocab_size(config, new[0]))
    tensors[name] = (stored.reader, replace(stored.entry, name=name))
    return []


def _derive(
    target: Stored, module: str, factors: Factors, adapter: Adapter, kept: Kept, conv1d: bool
) -> Merged | list[str]:
    """The merged weight, or why it can't be: W is rows × columns, and so is left · right."""
    entry, config = target.entry, adapter.config
    a, b = factors.parts["A"], factors.parts["B"]
    turned = factors.is_embedding or conv1d
    left = Factor(a, True) if turned else Factor(b, False)
    right = Factor(b, True) if turned else Factor(a, False)
    rank = config.rank_of(module)
    shapes = [a.entry.shape, b.entry.shape]
    text = " and ".join(show(shape) for shape in shapes)
    if len(entry.shape) != 2 or any(len(shape) != 2 for shape in shapes) or not entry.count:
        return [f"{entry.name} is {show(entry.shape)}, its factors {text}: only matrices are adapted"]
    if not entry.dtype.is_float:
        return [f"{entry.name} is {entry.dtype}, which is never added to"]
    if (left.rows, right.columns) != entry.shape or {left.columns, right.rows} != {rank}:
        return [f"{entry.name} is {show(entry.shape)}, its factors {text}, its rank {rank}"]
    magnitude = None
    if "magnitude" in factors.parts:
        stored = factors.parts["magnitude"]
        magnitude = Magnitude(stored, by_row=not turned)
        wanted = entry.shape[0 if magnitude.by_row else 1]
        if stored.entry.count != wanted:
            return [f"{module} has {stored.entry.count} magnitudes, not {wanted}"]
    elif config.use_dora:
        return [f"{module} lacks its magnitudes, but use_dora is set"]
    return Merged(target, left, right, config.scaling(module), magnitude, kept)
