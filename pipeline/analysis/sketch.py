"""Singular values of a tensor that is read chunk by chunk, in any order, and never held as a whole.

A matrix A is folded to B = R·A·C of at most `size` rows and columns, where R and C give rows (columns)
random signs and add up those whose numbers are the same modulo `size`: a CountSketch (Charikar, Chen and
Farach-Colton 2002; for matrices Clarkson and Woodruff, arXiv 1207.6365). A chunk's share of B depends on
that chunk alone, and shares are added as integers: so it takes one pass, and the result is the same
bits whatever the order. A matrix that is no larger is not folded, and B is A.

The effective rank is exp(-Σ p log p) with p = σ²/Σσ²: the form of Roy and Vetterli ("The effective
rank", EUSIPCO 2007), on shares of energy. B has as much energy as A on average, but can't have more
singular values than `size`: an effective rank that comes near half of that says that A's is higher.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.report import Spectrum
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS

# A prime just below 512: rows and columns of heads, whose sizes are powers of two, fall into all places.
DEFAULT_SIZE = 509
ENERGY_OF = (1, 4, 16, 64)
_BITS = 40  # of a share's fixed point, of the largest element
_ROWS, _COLUMNS = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03)  # seeds of the signs


def matrix_of(shape: Sequence[int]) -> tuple[int, int] | None:
    """Rows and columns of a tensor seen as a matrix; None if it has no spectrum worth the name.

    That is a vector, an empty tensor, and one whose rows are longer than a chunk.
    """
    rows, columns = math.prod(shape[:-1]), (shape or (0,))[-1]
    if len(shape) < 2 or min(rows, columns) < 2 or columns > CHUNK_ELEMENTS:
        return None
    return rows, columns


def sketch_bytes(shape: Sequence[int], size: int) -> int:
    """Memory for one tensor's sketch, while it is filled and while it is evaluated."""
    matrix = matrix_of(shape)
    if matrix is None:
        return 0
    rows, columns = (min(each, size) for each in matrix)
    return 8 * (2 * rows * columns + 3 * min(rows, columns) ** 2)


def chunk_bytes(itemsize: int) -> int:
    """Memory that `Sketch.add` takes at most for a chunk: whole rows, folded, in fixed point."""
    return CHUNK_ELEMENTS * (4 * itemsize + 3 * 8 + 8)


class Sketch:
    """B for one tensor, filled by any thread. largest: the largest absolute value there will be."""

    def __init__(self, rows: int, columns: int, largest: float, size: int) -> None:
        self.shape = (min(rows, size), min(columns, size))
        self.sampled = self.shape != (rows, columns)
        self._columns = columns
        self._folds_rows = rows > size
        terms = -(-rows // size) * -(-columns // size)
        self._scale = 2.0 ** min(_BITS, 60 - terms.bit_length()) / largest
        self._total = np.zeros(self.shape, np.int64)
        self._lock = threading.Lock()

    def add(self, start: int, values: NDArray[Any]) -> None:
        """Add the elements from number `start` on, row by row; finite, none larger than `largest`."""
        first = start // self._columns
        stop = -(-(start + len(values)) // self._columns)
        whole = np.zeros((stop - first) * self._columns, values.dtype)
        skipped = start - first * self._columns
        whole[skipped : skipped + len(values)] = values
        part = _fold_columns(whole.reshape(-1, self._columns), self.shape[1])
        if self._folds_rows:
            part *= _signs(first, stop, _ROWS).astype(part.dtype)[:, None]
        steps = np.rint(part.astype(np.float64) * self._scale).astype(np.int64)
        with self._lock:
            at = first % self.shape[0]
            while len(steps):
                room = self.shape[0] - at
                self._total[at : at + len(steps[:room])] += steps[:room]
                steps, at = steps[room:], 0

    def spectrum(self) -> Spectrum | None:
        """What has been added comes to; None if it is all zeros."""
        matrix = self._total / self._scale
        largest = float(np.max(np.abs(matrix), initial=0.0))
        if not largest:
            return None
        matrix /= largest
        rows, columns = self.shape
        gram = matrix @ matrix.T if rows <= columns else matrix.T @ matrix
        energies = np.clip(np.linalg.eigvalsh(gram)[::-1], 0.0, None)
        shares = energies / energies.sum()
        present = shares[shares > 0]
        return Spectrum(
            effective_rank=_rounded(math.exp(-float(np.sum(present * np.log(present))))),
            energy={str(k): _rounded(float(shares[:k].sum())) for k in ENERGY_OF},
            sampled=self.sampled,
            sketch=self.shape,
        )


def _fold_columns(rows: NDArray[Any], size: int) -> NDArray[Any]:
    """The columns, with random signs, added up to `size` of them; as they are if there are no more."""
    count = rows.shape[1]
    if count <= size:
        return rows
    rows *= _signs(0, count, _COLUMNS).astype(rows.dtype)
    folded = rows[:, :size].copy()
    for start in range(size, count, size):
        piece = rows[:, start : start + size]
        folded[:, : piece.shape[1]] += piece
    return folded


def _signs(start: int, stop: int, seed: np.uint64) -> NDArray[np.int8]:
    """-1 or 1 for each number, by the mixing of SplitMix64."""
    mixed = np.arange(start, stop, dtype=np.uint64) * seed + seed
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.where(mixed >> np.uint64(63), 1, -1).astype(np.int8)


def _rounded(value: float) -> float:
    """To what two machines' linear algebra agree on."""
    return float(f"{value:.9g}")
