"""Models to put on the local Hub, and whether what was opened is one of them."""

from __future__ import annotations

from pathlib import Path

import torch
from models import cast, random_state, read_model, write_model

from pipeline.checkpoints.checkpoint import Checkpoint


def small(folder: Path, seed: int = 1) -> Path:
    return write_model(folder, cast(random_state(seed)))


def large(folder: Path) -> Path:
    """2 MiB in one tensor."""
    return write_model(
        folder, {"w": torch.arange(1 << 20).remainder(999).to(torch.bfloat16).reshape(1024, -1)}
    )


def bytes_of(model: Checkpoint, name: str) -> bytes:
    source = model.tensors[name]
    data = bytearray(source.entry.nbytes)
    model.readers[source.file].read_into(source.entry.offset, memoryview(data))
    return bytes(data)


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def is_whole(model: Checkpoint, folder: Path) -> bool:
    expected = read_model(folder)
    return {name: bytes_of(model, name) for name in model.tensors} == {
        name: raw(tensor) for name, tensor in expected.items()
    }
