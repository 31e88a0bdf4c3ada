"""One worker's exact deltas of a chunk, as rows of one matrix, thinned out as a method says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.analysis.statistics import widen
from pipeline.engine.plan import Slice
from pipeline.operations.addends.addend import AddedTensor, Decoder
from pipeline.operations.fit import Fitted
from pipeline.operations.fusion.choice import Fusion
from pipeline.operations.fusion.layout import OWN_INPUTS, row_width
from pipeline.operations.fusion.methods import Drop
from pipeline.operations.kernels.rows import ruled
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS, Corrections, Operand
from pipeline.tensors.dtypes import Bytes
from pipeline.tensors.fusion import (
    Band,
    Counts,
    Floats,
    keep_band,
    keep_random,
    keep_ranked,
    random_key,
    rank_limits,
)

Edges = Sequence[
    tuple[Floats, Floats]
]  # for each delta: what belongs to rows before and behind its chunk


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the deltas of one tensor are put together; what there is for each delta, in their order.

    bands: what stays of each, with the equals before each chunk; none where a method asks for none.
    rescale: what each is multiplied by for what was left out. weights: what by after that.
    ends: of slerp, the shares of both models.
    """

    bands: Sequence[tuple[Band, NDArray[np.int64]] | None]
    rescale: Sequence[float]
    weights: Sequence[float]
    ends: tuple[float, float] | None = None

    @property
    def is_known(self) -> bool:
        """Whether its figures are numbers: they are NaN where a tensor has values that are none."""
        return all(map(math.isfinite, (*self.rescale, *self.weights, *(self.ends or ()))))


def scratch_bytes(fusion: Fusion, deltas: int) -> int:
    """Memory that `Deltas` and what is done with them take for one worker: matrix, results, ranks."""
    # Rows may go on over both neighbours: of each element a value, a key and a limit, twice over.
    ranks = 4 + 3 * 3 * 8 if fusion.kind.drops is Drop.RANKED else 0
    models = 3 * 4 + 2 * 8 if fusion.method == "slerp" else 0
    return CHUNK_ELEMENTS * (4 * deltas + 2 * 4 + ranks + models)


class Deltas:
    """Exact deltas of a chunk: row k of `matrix` is delta k's, zero where it has ended.

    Only the chunk's elements count: what lies behind them is anything.
    """

    def __init__(self, fusion: Fusion, decoders: Sequence[Decoder]) -> None:
        self.matrix = np.zeros((len(decoders), CHUNK_ELEMENTS), np.float32)
        self._fusion = fusion
        self._decoders = decoders
        self._room = np.empty(CHUNK_ELEMENTS, np.float32)

    def own(self, inputs: Sequence[Bytes]) -> Sequence[Bytes]:
        """The inputs of the chunk itself, without its neighbours'."""
        return inputs[: OWN_INPUTS + 2 * len(self._decoders)]

    def read_edges(self, item: Fitted, part: Slice, inputs: Sequence[Bytes]) -> Edges:
        """The rest of the rows that are torn at the chunk's ends. To be called before `decode`."""
        count = 2 * len(self._decoders)
        beside = inputs[OWN_INPUTS + count :]
        if not len(beside):
            return [(self._room[:0], self._room[:0])] * len(self._decoders)
        found = []
        for number, tensor in enumerate(item.added):
            width, stop = row_width(tensor.record.shape), part.start + thinned_of(tensor, part)
            before, behind = part.start % width, -stop % width
            place = slice(2 * number, 2 * number + 2)
            first = self._neighbour(number, item, part.chunk - 1, beside[:count][place], before)
            first = first[len(first) - before :].copy()  # both neighbours are decoded into one place
            last = self._neighbour(number, item, part.chunk + 1, beside[count:][place], behind)
            found.append((first, last[:behind].copy()))
        return found

    def decode(self, item: Fitted, part: Slice, inputs: Sequence[Bytes]) -> None:
        """Fill the matrix with a chunk of each delta."""
        for number, (tensor, decode) in enumerate(zip(item.added, self._decoders, strict=True)):
            if len_of(tensor, part):
                first, second = inputs[OWN_INPUTS + 2 * number :][:2]
                self.fill(number, item, part, *decode(item.result.name, part.chunk, first, second))
            else:
                self.matrix[number, : part.count] = 0

    def fill(
        self, number: int, item: Fitted, part: Slice, values: Bytes, corrections: Corrections
    ) -> None:
        """Take a decoded chunk as delta `number`'s, without the rows that rules are for.

        These are no differences, or go to no base's row: what they hold must have no part in what a
        method finds out of the others. Their rules make them afterwards.
        """
        row = self.matrix[number]
        found = widen(Operand(values, item.added[number].record.stored), corrections, row)
        row[len(found) : part.count] = 0
        for _, low, high in ruled(item.rules, math.prod(item.result.shape[1:]), part):
            row[low:high] = 0

    def thin(
        self, item: Fitted, part: Slice, number: int, recipe: Recipe | None, edges: Edges
    ) -> Floats:
        """Leave out of delta `number` what the method does; returns what that was done to."""
        tensor = item.added[number]
        values = self.matrix[number, : thinned_of(tensor, part)]
        if not self._fusion.thins or not len(values):
            return values
        band = recipe.bands[number] if recipe else None
        if band is not None:
            keep_band(values, band[0], *band[1][part.chunk : part.chunk + 2])
            return values
        key = random_key(self._fusion.seed, number, item.result.name)
        if self._fusion.kind.drops is Drop.RANKED:
            keep_ranked(values, key, part.start, self._limits(tensor, values, edges[number]))
        else:
            keep_random(values, key, part.start, self._fusion.density)
        return values

    def _limits(self, tensor: AddedTensor, values: Floats, edges: tuple[Floats, Floats]) -> Counts:
        rows = np.concatenate([edges[0], values, edges[1]])
        width = row_width(tensor.record.shape)
        limits = rank_limits(rows, width, self._fusion.density, self._fusion.epsilon)
        return limits[len(edges[0]) :][: len(values)]

    def _neighbour(
        self, number: int, item: Fitted, chunk: int, inputs: Sequence[Bytes], wanted: int
    ) -> Floats:
        """The values of a neighbouring chunk, if any are wanted."""
        if not wanted:
            return self._room[:0]
        tensor = item.added[number]
        values, corrections = self._decoders[number](item.result.name, chunk, *inputs)
        found: Floats = widen(Operand(values, tensor.record.stored), corrections, self._room)
        return found


def thinned_of(tensor: AddedTensor, part: Slice) -> int:
    """How many of these differ from a base: rows that only post has are whole, and are not thinned."""
    return max(0, min(math.prod(tensor.record.base_shape) - part.start, len_of(tensor, part)))


def len_of(tensor: AddedTensor, part: Slice) -> int:
    """How many elements a delta has in a chunk; none behind its end."""
    return max(0, min(math.prod(tensor.record.shape) - part.start, CHUNK_ELEMENTS))
