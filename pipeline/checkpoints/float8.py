"""Checkpoints in 8-bit floats with scales, read as what they mean.

Form (DeepSeek-V3, and what transformers writes as `quant_method: fp8`): beside each weight NAME of
format F8_E4M3 or F8_E5M2 lies NAME_scale_inv, by which its values are multiplied: one scale for the
whole, one for each row, or one for each block of `weight_block_size` rows and columns. The product is
rounded once, to float32: to bfloat16, as others have it, it would be rounded a second time, before the
subtraction. What only a multiplication in 8 bits needs, scales of activations, is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline.checkpoints.derived import DerivedReader
from pipeline.checkpoints.header import Entry
from pipeline.checkpoints.quantised_config import fp8_block
from pipeline.errors import QuantisedCheckpoint
from pipeline.storage.base import Reader
from pipeline.tensors import float8
from pipeline.tensors.dtypes import BY_NAME, F32, U8, Bytes, DType, Kind

DERIVED = "fp8, dequantised"
SCALE = "_scale_inv"
_FOR_ACTIVATIONS = ("activation_scale", "input_scale")  # beside `weight`, or as a suffix of NAME
_PACKED = (BY_NAME["I8"], U8)
_PIECE = 1 << 18  # elements that are widened at once: memory beside what is asked for

Stored = Mapping[str, tuple[Entry, Reader]]


@dataclass(frozen=True)
class Scaled:
    """A weight in 8-bit floats times its scales; see `Derivation`. block: rows and columns of one."""

    weight: Entry
    weights: Reader
    scale: Entry
    scales: Reader
    block: tuple[int, int]

    @property
    def dtype(self) -> DType:
        """Float32: what an exact product is rounded to."""
        return F32

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight."""
        return self.weight.shape

    @property
    def readers(self) -> Sequence[Reader]:
        """The weight's, then the scales'."""
        return [self.weights, self.scales]

    @property
    def recipe(self) -> str:
        """Both formats and the block."""
        places = f"{self.weight.offset} {self.scale.offset}"
        return f"{self.weight.dtype} x {self.scale.dtype} by {self.block}, {self.shape} at {places}"

    @cached_property
    def _table(self) -> float8.Floats:
        return float8.values_of(self.weight.dtype)

    def fill(self, start: int, out: Bytes) -> None:
        """See `Derivation`. Reads whole rows."""
        values = out.view("<f4")
        columns = self.shape[-1] if self.shape else 1
        first, last = start // columns, -(-(start + len(values)) // columns)
        codes = _read(self.weights, self.weight, first * columns, last * columns)
        codes = codes[start - first * columns :][: len(values)]
        at = start
        while len(values):
            row, column = divmod(at, columns)
            rows = max(1, _PIECE // columns)
            have = min(len(values), columns - column if column else rows * columns)
            if have > columns:
                have -= have % columns  # whole rows, and at the end what is left of one
            self._multiply(row, column, codes[:have], values[:have])
            codes, values, at = codes[have:], values[have:], at + have

    def _multiply(self, row: int, column: int, codes: Bytes, out: float8.Floats) -> None:
        """Whole rows from `row` on, or a part of one, from `column` on."""
        columns = self.shape[-1] if self.shape else 1
        rows = max(1, len(codes) // columns)
        scales, width = self._scales_of(row, rows), self.block[1]
        if column or len(codes) < columns:
            scales, width = np.repeat(scales, width, axis=1)[:, column : column + len(codes)], 1
        made = float8.multiply(codes.reshape(rows, -1), self._table, scales, width)
        out[:] = made.reshape(-1)

    def _scales_of(self, first: int, count: int) -> float8.Floats:
        """A row of scales for each of `count` rows from `first` on, matrices counted through."""
        height = self.shape[-2] if len(self.shape) > 1 else 1
        columns = self.shape[-1] if self.shape else 1
        down, across = -(-height // self.block[0]), -(-columns // self.block[1])
        matrix, row = np.divmod(np.arange(first, first + count), height)
        wanted = matrix * down + row // self.block[0]
        begin, end = int(wanted[0]), int(wanted[-1]) + 1
        data = _read(self.scales, self.scale, begin * across, end * across)
        scales = float8.widen_scales(data, self.scale.dtype).reshape(-1, across)
        found: float8.Floats = scales[wanted - begin]
        return found


def _read(reader: Reader, entry: Entry, begin: int, end: int) -> Bytes:
    """The bytes of elements begin..end."""
    size = entry.dtype.itemsize
    data = np.empty((end - begin) * size, np.uint8)
    reader.read_into(entry.offset + begin * size, data.data)
    return data


def dequantise(
    stored: Stored, config: Mapping[str, Any] | None, *, where: str
) -> tuple[DerivedReader, set[str]]:
    """All weights in 8-bit floats as one file, and the names of the tensors that are not needed with it.

    Raises QuantisedCheckpoint, which names every weight that cannot be dequantised, and why.
    """
    configured = fp8_block(config)
    made: dict[str, Scaled] = {}
    gone: set[str] = set()
    problems: list[str] = []
    for name, (entry, reader) in stored.items():
        scales = stored.get(name + SCALE)
        if name.endswith(SCALE) and name.removesuffix(SCALE) not in stored:
            problems.append(f"{name.removesuffix(SCALE)!r} is missing, which {name!r} are the scales of")
        is_code = entry.dtype.kind is Kind.CODED or _may_be_packed(entry)
        if name.endswith(SCALE) or (scales is None and not is_code):
            continue
        problem = _problem(entry, scales[0] if scales else None, configured)
        if problem or scales is None:
            problems.append(f"{name!r} {problem}")
            continue
        block = float8.block_of(entry.shape, scales[0].shape, configured)
        made[name] = Scaled(entry, reader, *scales, block or (1, 1))
        stem = name.removesuffix("weight")
        activations = {stem + last if stem != name else f"{name}_{last}" for last in _FOR_ACTIVATIONS}
        gone |= {name, name + SCALE, *activations}
    if problems:
        raise QuantisedCheckpoint(
            f"cannot be dequantised, {len(problems)} in all: {'; '.join(problems[:10])}",
            where=where,
            hint="use the original bf16 or fp32 weights",
        )
    return DerivedReader(f"{where} (dequantised)", made), gone & stored.keys()


def _may_be_packed(entry: Entry) -> bool:
    """Whether a tensor beside 8-bit floats may be one of 4-bit floats, two in a byte, as experts are."""
    return entry.dtype in _PACKED and len(entry.shape) > 1


def _problem(entry: Entry, scale: Entry | None, configured: tuple[int, int] | None) -> str | None:
    """Why a weight cannot be dequantised."""
    if entry.dtype not in float8.CODES:
        return f"is {entry.dtype}" + (" and may be 4-bit codes" if entry.dtype in _PACKED else "")
    if scale is None:
        return f"is {entry.dtype} and has no scales {entry.name + SCALE!r}"
    if scale.dtype not in float8.SCALES:
        return f"has scales of {scale.dtype}"
    if float8.block_of(entry.shape, scale.shape, configured) is None:
        return f"of shape {list(entry.shape)} has scales of shape {list(scale.shape)}"
    return None
