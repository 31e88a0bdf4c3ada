"""Models to put on the local Hub, what is read of them, and whether it is what was put there."""

from __future__ import annotations

import traceback
from pathlib import Path

import torch
from models import cast, random_state, read_model, write_model
from servers.hub import HubServer
from servers.hub_repos import HubFile

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.storage.base import Reader
from pipeline.storage.hub.models import HubRepo

REPO = "org/model"
WEIGHTS = "model.safetensors"


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


def weights() -> Reader:
    return HubRepo(REPO, None).open(WEIGHTS)


def content(reader: Reader) -> bytes:
    """The whole file, asked for as one range."""
    data = bytearray(reader.nbytes)
    reader.read_into(0, memoryview(data))
    return bytes(data)


def swap(hub: HubServer, tmp_path: Path, *, grow: bool = False) -> None:
    """Give the commit's weights another content, of the same size or another."""
    repo = hub.repos[REPO]
    old = repo.commits[repo.sha()].files[WEIGHTS]
    path = tmp_path / WEIGHTS
    path.write_bytes(bytes(old.size + grow))
    repo.commits[repo.sha()].files[WEIGHTS] = HubFile.read(path, WEIGHTS)


def shown(error: BaseException) -> str:
    """Everything that anybody gets to see of an error."""
    return "".join(traceback.format_exception(error)) + repr(error) + str(error)
