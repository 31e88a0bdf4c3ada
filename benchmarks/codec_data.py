"""Pairs of checkpoints whose deltas the codecs are measured on, as bfloat16 tensors in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.tensors.arithmetic import CHUNK_ELEMENTS, Corrections, CpuArithmetic, Operand
from pipeline.tensors.dtypes import BF16, Bytes

WEIGHT_DEVIATION = 0.02
HEAVY_CHANGE = 0.01  # of that deviation
LIGHT_STEPS = {-2: 0.04, -1: 0.14, 0: 0.64, 1: 0.14, 2: 0.04}  # units in the last place: their shares


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair's delta, chunk by chunk, and the two sides themselves.

    stored: of each chunk the bytes of the bfloat16 delta; corrections: what it lost.
    """

    name: str
    post: bytes
    base: bytes
    stored: list[Bytes]
    corrections: list[Corrections]

    @property
    def delta(self) -> bytes:
        """All of the stored delta."""
        return b"".join(chunk.tobytes() for chunk in self.stored)


def heavy(elements: int) -> Pair:
    """Every weight moves by 1% of the weights' deviation."""
    random = np.random.default_rng(1)
    base = random.normal(0, WEIGHT_DEVIATION, elements).astype(np.float32)
    base_bits = _bf16(base)
    moved = _values(base_bits) + random.normal(0, HEAVY_CHANGE * WEIGHT_DEVIATION, elements)
    return _pair("heavy (synthetic)", [(_bf16(moved.astype(np.float32)), base_bits)])


def light(elements: int) -> Pair:
    """A third of the weights move, by a unit in the last place or two."""
    random = np.random.default_rng(2)
    base = _bf16(random.normal(0, WEIGHT_DEVIATION, elements).astype(np.float32))
    steps = random.choice(list(LIGHT_STEPS), elements, p=list(LIGHT_STEPS.values()))
    return _pair("light (synthetic)", [((base + steps).astype(np.uint16), base)])


def real(post: Path, base: Path, limit: int) -> Pair:
    """The bfloat16 tensors of two model folders that agree in shape, up to `limit` elements."""
    bases = dict(_tensors(base))
    pairs = []
    for name, bits in _tensors(post):
        if name in bases and bases[name].size == bits.size and limit > 0:
            pairs.append((bits[:limit], bases[name][:limit]))
            limit -= bits.size
    if not pairs:
        raise SystemExit(f"{post} and {base} have no bfloat16 tensors in common")
    return _pair(f"{post.name} − {base.name}", pairs)


def _pair(name: str, tensors: list[tuple[NDArray[np.uint16], NDArray[np.uint16]]]) -> Pair:
    arithmetic = CpuArithmetic()
    stored, lost = [], []
    for post, base in tensors:
        for start in range(0, post.size, CHUNK_ELEMENTS):
            sides = (each[start : start + CHUNK_ELEMENTS].view(np.uint8) for each in (post, base))
            operands = [Operand(side, BF16) for side in sides]
            out = np.empty_like(operands[0].data)
            missing = arithmetic.subtract(*operands, Operand(out, BF16)).lost
            stored.append(out)
            lists = (missing.rest_at, missing.rest, missing.lost_at, missing.lost)
            lost.append(Corrections(*(each.copy() for each in lists)))
    posts, bases = (b"".join(pair[side].tobytes() for pair in tensors) for side in (0, 1))
    return Pair(name, posts, bases, stored, lost)


def _tensors(folder: Path) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """The bfloat16 tensors of a model folder, flat."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
        data = np.memmap(path, np.uint8, "r", 8 + size)
        for name, fields in header.items():
            if name != "__metadata__" and fields["dtype"] == "BF16":
                begin, end = fields["data_offsets"]
                yield name, np.array(data[begin:end]).view("<u2")


def _bf16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    bits = values.view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def _values(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    return (bits.astype(np.uint32) << 16).view(np.float32)
