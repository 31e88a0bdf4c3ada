"""Write base, post and base2 of one size as model folders, slice by slice.

    python benchmarks/synthesise.py 1.2B FOLDER

Weights are normal with a standard deviation of 0.02 (norms: 0.05 around 1). post is base plus 1% of
that deviation, and so is base2, with other noise: post is a heavy fine-tune, base2 a near relative,
which favours tools that round on the way. All three are rounded to bfloat16 by torch. Seeded: the same
bytes each time. Memory does not grow with the model.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shapes import BYTES_PER_ELEMENT, CONFIG, CONFIGS, MODELS, SHARD_BYTES, Shape, tensors

POST_CHANGE = 1e-2
BASE2_CHANGE = 1e-2
WEIGHT_DEVIATION = 0.02
NORM_DEVIATION = 0.05
SLICE_ELEMENTS = 1 << 21
SEED = 20260101
RECIPE = [POST_CHANGE, BASE2_CHANGE, WEIGHT_DEVIATION, NORM_DEVIATION, SLICE_ELEMENTS, SEED, CONFIGS]


@dataclass(frozen=True, slots=True)
class Shard:
    """One safetensors file: its name, its header, and where its data begin."""

    name: str
    header: bytes
    tensors: list[tuple[str, Shape]]


@dataclass(frozen=True, slots=True)
class Slice:
    """A run of elements of one tensor: which file, at which byte, how many, around which mean."""

    number: int
    shard: str
    offset: int
    count: int
    is_norm: bool


def nbytes(shape: Shape) -> int:
    """Bytes of a tensor."""
    return prod(shape) * BYTES_PER_ELEMENT


def shards(config: Mapping[str, Any]) -> list[Shard]:
    """The files of a model, each at most `SHARD_BYTES` of tensors."""
    groups: list[list[tuple[str, Shape]]] = [[]]
    size = 0
    for name, shape in tensors(config):
        if size + nbytes(shape) > SHARD_BYTES:
            groups.append([])
            size = 0
        groups[-1].append((name, shape))
        size += nbytes(shape)
    names = (
        ["model.safetensors"]
        if len(groups) == 1
        else [f"model-{i:05d}-of-{len(groups):05d}.safetensors" for i in range(1, len(groups) + 1)]
    )
    return [Shard(name, header(group), group) for name, group in zip(names, groups, strict=True)]


def header(group: list[tuple[str, Shape]]) -> bytes:
    """The head of a safetensors file that holds these tensors one after another."""
    fields: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in group:
        begin, end = end, end + nbytes(shape)
        fields[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(fields, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    return len(text).to_bytes(8, "little") + text


def slices(files: list[Shard]) -> Iterator[Slice]:
    """All elements of all files, in runs of at most `SLICE_ELEMENTS`."""
    number = 0
    for file in files:
        offset = len(file.header)
        for name, shape in file.tensors:
            left = prod(shape)
            while left:
                count = min(left, SLICE_ELEMENTS)
                yield Slice(number, file.name, offset, count, name.endswith("norm.weight"))
                number += 1
                left -= count
                offset += count * BYTES_PER_ELEMENT


def values(part: Slice) -> Iterator[torch.Tensor]:
    """The slice's values in each of `MODELS`, in bfloat16."""
    random = np.random.Generator(np.random.SFC64([SEED, part.number]))
    mean, deviation = (1.0, NORM_DEVIATION) if part.is_norm else (0.0, WEIGHT_DEVIATION)

    def normal(scale: float) -> torch.Tensor:
        return torch.from_numpy(random.standard_normal(part.count, dtype=np.float32)).mul_(scale)

    base = normal(deviation).add_(mean).bfloat16()
    yield base
    for change in (POST_CHANGE, BASE2_CHANGE):
        yield normal(change * deviation).add_(base.float()).bfloat16()


def write_folders(config: Mapping[str, Any], folder: Path) -> None:
    """All three models below `folder`, which must be new."""
    torch.set_num_threads(1)
    files = shards(config)
    opened: dict[tuple[str, str], int] = {}
    for model in MODELS:
        (folder / model).mkdir(parents=True)
        for file in files:
            fd = os.open(folder / model / file.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            os.pwrite(fd, file.header, 0)
            opened[model, file.name] = fd

    def fill(part: Slice) -> None:
        for model, tensor in zip(MODELS, values(part), strict=True):
            os.pwrite(opened[model, part.shard], tensor.view(torch.uint8).numpy().data, part.offset)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(fill, slices(files)))
    for fd in opened.values():
        os.close(fd)
    for model in MODELS:
        write_json_files(folder / model, config, files)


def write_json_files(folder: Path, config: Mapping[str, Any], files: list[Shard]) -> None:
    """config.json, and the index where there are several files."""
    if len(files) > 1:
        places = {name: file.name for file in files for name, _ in file.tensors}
        total = sum(nbytes(shape) for file in files for _, shape in file.tensors)
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    (folder / CONFIG).write_text(json.dumps(config, indent=2))


def main(size: str, folder: Path) -> None:
    """Make the models of `size` unless they are there; a killed run leaves nothing under `folder`."""
    recipe = folder / "recipe.json"
    if recipe.is_file() and json.loads(recipe.read_text()) == RECIPE:
        return
    shutil.rmtree(folder, ignore_errors=True)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    write_folders(CONFIGS[size], partial)
    (partial / recipe.name).write_text(json.dumps(RECIPE))
    partial.rename(folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
