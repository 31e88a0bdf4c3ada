"""A model folder to be written: shards, their index, and the order in which it is published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.checkpoints.files import SAFETENSORS_INDEX
from pipeline.checkpoints.header import Tensor, aligned_order, build_header
from pipeline.units import GIB

SHARD_BYTES = 5 * GIB
CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Shard:
    """One safetensors file of the folder: its header, and its tensors in the order of their bytes."""

    name: str
    header: bytes
    tensors: Sequence[Tensor]

    @property
    def offsets(self) -> list[int]:
        """Where each tensor begins in the file."""
        at = len(self.header)
        found = []
        for tensor in self.tensors:
            found.append(at)
            at += tensor.nbytes
        return found

    @property
    def nbytes(self) -> int:
        """Bytes of the file."""
        return len(self.header) + sum(tensor.nbytes for tensor in self.tensors)


def plan_shards(tensors: Sequence[Tensor], shard_bytes: int = SHARD_BYTES) -> list[Shard]:
    """Shards of at most `shard_bytes` (or one larger tensor), in the order of `tensors`."""
    groups: list[list[Tensor]] = [[]]
    size = 0
    for tensor in tensors:
        if groups[-1] and size + tensor.nbytes > shard_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.nbytes
    total = len(groups)
    shards = []
    for number, group in enumerate(groups, 1):
        name = "model" if total == 1 else f"model-{number:05d}-of-{total:05d}"
        ordered = aligned_order(group)
        shards.append(Shard(f"{name}.safetensors", build_header(ordered, {"format": "pt"}), ordered))
    return shards


def build_index(shards: Sequence[Shard]) -> bytes | None:
    """The content of model.safetensors.index.json, or None for a single file."""
    if len(shards) == 1:
        return None
    total = sum(tensor.nbytes for shard in shards for tensor in shard.tensors)
    places = {tensor.name: shard.name for shard in shards for tensor in shard.tensors}
    return as_json({"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))})


def as_json(content: object) -> bytes:
    """JSON as people read it, ending with a newline."""
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def publishing_order(names: Sequence[str]) -> list[str]:
    """Shards first; the index, and last config.json, without which nothing takes it for a model."""
    last = {SAFETENSORS_INDEX: 1, CONFIG: 2}
    return sorted(names, key=lambda name: last.get(name, 0))
