"""A delta's matrices as products of thin ones, in the form and under the names that PEFT reads."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from pipeline.checkpoints.adapters.naming import is_conv1d
from pipeline.checkpoints.header import Tensor
from pipeline.deltas.manifest import TensorRecord
from pipeline.errors import UsageError
from pipeline.operations.adapters.choosing import Choice
from pipeline.operations.adapters.reading import DeltaValues
from pipeline.operations.adapters.writing import WeightsFile, weight_name
from pipeline.progress import Advance
from pipeline.tensors.doubles import narrow, widen
from pipeline.tensors.dtypes import Bytes, DType
from pipeline.tensors.low_rank import Matrix, factorise, residual, squared_norm


@dataclass(frozen=True, slots=True)
class Extracted:
    """One matrix of the adapter. error: |∆ − B·A| / |∆| of the factors as written."""

    name: str
    rank: int
    error: float | None

    def __str__(self) -> str:
        error = "" if self.error is None else f", error {self.error:.4g}"
        return f"{self.name}: rank {self.rank}{error}"


@dataclass
class Factoring:
    """How the matrices of a delta become factors, and what has become of them so far.

    rank, energy: as asked for, one of them. shared: the rank of all experts, where it is to be found:
    PEFT on transformers 5 stacks them, and multiplies the config's r for it, whatever patterns say
    (`_convert_peft_config_moe`). lost, norm: squared, over all matrices so far.
    """

    values: DeltaValues
    choice: Choice
    rank: int | None
    energy: float | None
    dtype: DType
    seed: int
    shared: int | None = None
    lost: float = 0.0
    norm: float = 0.0
    done: list[Extracted] = field(default_factory=list)

    def rank_of(self, record: TensorRecord) -> int:
        """The rank that is asked for, or the highest that the matrix can have."""
        side = min(record.shape)
        if record.name in self.choice.experts:
            return self.rank or self.shared or self._most_of_experts
        return min(self.rank or side, side)

    @property
    def _most_of_experts(self) -> int:
        """The highest rank that an expert can have."""
        shapes = [r.shape for r in self.choice.factors if r.name in self.choice.experts]
        return max(min(shape) for shape in shapes)

    @property
    def error(self) -> float:
        """|∆ − B·A| / |∆| over all matrices so far."""
        return math.sqrt(self.lost / self.norm) if self.norm else 0.0

    def outlook(self) -> list[Extracted]:
        """What is known of all matrices before one is decomposed."""
        records = self.choice.factors
        return [Extracted(r.name, self.rank_of(r) if self.rank else 0, None) for r in records]

    def largest(self) -> list[Tensor]:
        """All factors, with the highest ranks that they may come to."""
        records = self.choice.factors
        return [tensor for r in records for tensor in self.tensors(r, self.rank_of(r))]

    def tensors(self, record: TensorRecord, rank: int) -> list[Tensor]:
        """A and B of a matrix. A `Conv1D` has its weight the other way round."""
        out, inner = record.shape
        if self._is_turned(record):
            out, inner = inner, out
        module, shapes = self.choice.loaded.module(record.name), {"A": (rank, inner), "B": (out, rank)}
        return [Tensor(weight_name(module, part), self.dtype, shape) for part, shape in shapes.items()]

    def _is_turned(self, record: TensorRecord) -> bool:
        config = self.values.delta.manifest.post_config
        return is_conv1d(config, self.choice.loaded.module(record.name))

    @property
    def searched(self) -> list[TensorRecord]:
        """The matrices whose common rank is to be found first."""
        experts = self.choice.experts if self.energy is not None else frozenset()
        return [record for record in self.choice.factors if record.name in experts]

    def search(self, advance: Advance) -> None:
        """Find the least rank that keeps the energy of every one of `searched`. Raises UsageError."""
        for record in self.searched:
            left, _ = self._factorise(record, self.values.matrix(record.name), None)
            self.shared = max(self.shared or 1, left.shape[1])
            advance(4 * math.prod(record.shape))

    def _factorise(
        self, record: TensorRecord, matrix: Matrix, rank: int | None
    ) -> tuple[Matrix, Matrix]:
        """B and A of that rank, or of the energy that is asked for. Raises UsageError."""
        energy = self.energy if rank is None else None
        try:
            return factorise(matrix, rank=rank, energy=energy, seed=self.seed)
        except OverflowError as error:
            raise UsageError(
                f"{record.name} is not to be decomposed in float32: its differences are too large",
                where=self.values.delta.location,
                hint="leave it out by --skip",
            ) from error

    def write(self, record: TensorRecord, file: WeightsFile) -> None:
        """Decompose one matrix, write its factors, and measure what they lose.

        Raises UsageError for values that are too large, for float32 or for the factors' format.
        """
        matrix = self.values.matrix(record.name)
        is_stacked = record.name in self.choice.experts
        wanted = self.rank or (self.shared if is_stacked else None)
        left, right = self._factorise(record, matrix, wanted)
        rank = left.shape[1]
        if is_stacked and wanted is not None and rank < wanted:
            left = np.pad(left, ((0, 0), (0, wanted - rank)))
            right = np.pad(right, ((0, wanted - rank), (0, 0)))
            rank = wanted
        turned = self._is_turned(record)
        pair = (left.T, right.T) if turned else (right, left)
        rounded = []
        for tensor, factor in zip(self.tensors(record, rank), pair, strict=True):
            data, kept = _rounded(factor, self.dtype)
            if not np.isfinite(kept).all():
                raise UsageError(
                    f"the factors of {record.name} are beyond {self.dtype}",
                    where=self.values.delta.location,
                    hint="--dtype bfloat16 or float32 has room for them",
                )
            file.add(tensor, [data])
            rounded.append(kept)
        thin, flat = (rounded[0].T, rounded[1].T) if turned else (rounded[1], rounded[0])
        norm, lost = squared_norm(matrix), residual(matrix, thin, flat)
        self.norm, self.lost = self.norm + norm, self.lost + lost
        self.done.append(Extracted(record.name, rank, math.sqrt(lost / norm) if norm else 0.0))


def _rounded(values: Matrix, dtype: DType) -> tuple[Bytes, Matrix]:
    """The bytes of a factor in its format, and the values that these are."""
    data = np.empty(values.size * dtype.itemsize, np.uint8)
    narrow(values.astype(np.float64).reshape(-1), data, dtype)
    return data, widen(data, dtype).reshape(values.shape).astype(np.float32)
