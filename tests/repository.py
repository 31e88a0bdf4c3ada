"""A small repository for the tests of the Hub's server, and requests with no client library between."""

from __future__ import annotations

import hashlib
import json
import urllib.error
import urllib.request
from pathlib import Path

import torch
from safetensors.torch import save_file

REPO = "org/model"
WEIGHTS = "model.safetensors"


def write_model(folder: Path, *, value: float = 1.0, rows: int = 64) -> Path:
    """A folder with a config and one safetensors file of rows × 64 floats."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "value": value}))
    save_file({"w": torch.full((rows, 64), value)}, folder / WEIGHTS)
    return folder


def write_sharded_model(folder: Path) -> Path:
    """A folder with two shards in a subfolder-free layout, an index, and a nested file."""
    folder.mkdir()
    (folder / "extra").mkdir()
    (folder / "extra" / "notes.txt").write_text("nested")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for number, (name, shard) in enumerate(shards.items()):
        save_file({name: torch.full((32, 64), float(number))}, folder / shard)
    index = {"metadata": {"total_size": 2 * 32 * 64 * 4}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def fetch(url: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """A plain GET, with no client library between the test and the server."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as response:
            return response.status, dict(response.headers), response.read()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read()
