"""The kernel of apply where deltas are put together in another way than by their sum everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from pipeline.analysis.statistics import widen
from pipeline.deltas.corrections import NO_CORRECTIONS
from pipeline.engine.plan import Slice
from pipeline.operations.fit import Fitted
from pipeline.operations.fusion.layout import Fused
from pipeline.operations.kernels.add import AddKernel, Decoded
from pipeline.operations.kernels.deltas import Deltas, Edges, Recipe
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS, Operand, Term
from pipeline.tensors.dtypes import F32, Bytes
from pipeline.tensors.fusion import Floats, elect


@dataclass
class FuseKernel(AddKernel):
    """One worker's kernel; see `AddKernel`. recipes: by job, None where there is a mere sum."""

    fused: Fused
    recipes: Sequence[Recipe | None]

    def __post_init__(self) -> None:
        self._deltas = Deltas(self.fused.fusion, self.decoders)
        self._mixed = np.empty(CHUNK_ELEMENTS, np.float32)
        self._model = np.empty(CHUNK_ELEMENTS, np.float32)
        self._edges: Edges = ()

    def _decoded(self, item: Fitted, part: Slice, inputs: Sequence[Bytes]) -> Iterator[Decoded]:
        """Those of what is left out are decoded, too, for their digests, but go nowhere."""
        self._edges = self._deltas.read_edges(item, part, inputs)
        found = list(super()._decoded(item, part, self._deltas.own(inputs)))
        return iter(found if self.fused.adds_to(item) or item.is_whole or item.rules else ())

    def _put_together(
        self, item: Fitted, part: Slice, base: Bytes, decoded: Sequence[Decoded], out: Bytes
    ) -> None:
        with np.errstate(all="ignore"):  # overflow, NaN and infinity are data here
            self._fuse(item, part, base, decoded, out)

    def _fuse(
        self, item: Fitted, part: Slice, base: Bytes, decoded: Sequence[Decoded], out: Bytes
    ) -> None:
        factor, recipe = self.fused.factors[item.result.name], self.recipes[part.job]
        if item.is_whole:
            super()._put_together(item, part, base, decoded, out)
        elif factor is None or not decoded:
            self._keep(item, part, base, out)
        elif recipe is None:
            scale = self.fused.fusion.lambda_ * factor
            terms = [replace(each.term, scale=each.scale * scale) for each in decoded]
            self._sum(item, part, base, terms, out)
        else:
            self._fill(item, part, decoded)
            mixed = self._mixed[: part.count]
            if recipe.ends is not None:
                base = self._between(item, base, recipe.ends, factor, mixed)
            else:
                self._mix(item, part, recipe, factor, mixed)
            self._sum(item, part, base, [_term(mixed)], out)

    def _fill(self, item: Fitted, part: Slice, decoded: Sequence[Decoded]) -> None:
        """The matrix of exact deltas; those that have ended are zero."""
        found = iter(decoded)
        for number, tensor in enumerate(item.added):
            if part.chunk < len(tensor.digests):
                each = next(found)
                self._deltas.fill(number, item, part, each.values, each.corrections)
            else:
                self._deltas.matrix[number, : part.count] = 0

    def _mix(self, item: Fitted, part: Slice, recipe: Recipe, factor: float, mixed: Floats) -> None:
        """Fill `mixed` with what is added to the base."""
        fusion = self.fused.fusion
        weights = np.array(recipe.weights, np.float32)
        for number, weight in enumerate(weights):
            values = self._deltas.thin(item, part, number, recipe, self._edges)
            _scale(values, recipe.rescale[number])
            _scale(self._deltas.matrix[number, : part.count], weight)
        if fusion.kind.elects:
            elect(self._deltas.matrix, weights, mixed, normalize=fusion.kind.normalizes)
        else:
            self._add_up(mixed)
        _scale(mixed, fusion.lambda_)
        _scale(mixed, factor)

    def _add_up(self, mixed: Floats) -> None:
        first, *others = self._deltas.matrix
        np.copyto(mixed, first[: len(mixed)])
        for row in others:
            mixed += row[: len(mixed)]

    def _between(
        self, item: Fitted, base: Bytes, ends: tuple[float, float], factor: float, mixed: Floats
    ) -> Bytes:
        """Fill `mixed` with a share of both models; returns what of the base is still to be added."""
        count = len(mixed)
        own: Floats = widen(Operand(base, item.base.dtype), NO_CORRECTIONS, self._model)
        first, second = models(own, self._deltas.matrix[:, :count])
        # In float64: where values cancel, float32's rounding of each would be all that is left.
        total = first.astype(np.float64)
        total *= ends[0]
        total += np.multiply(second, ends[1], dtype=np.float64)
        np.copyto(mixed, total, casting="same_kind")
        if factor == 1:
            return base[:0]
        mixed -= own
        _scale(mixed, factor)
        return base

    def _sum(self, item: Fitted, part: Slice, base: Bytes, terms: Sequence[Term], out: Bytes) -> None:
        self.adding.found.nonfinite[part.row] = self.arithmetic.add(
            Operand(base, item.base.dtype), terms, Operand(out, item.result.dtype)
        )

    def _keep(self, item: Fitted, part: Slice, base: Bytes, out: Bytes) -> None:
        """The new base's values, bit for bit in its own format; what it lacks has rules."""
        self._sum(item, part, base, [], out)
        if item.result.dtype == item.base.dtype:
            out[: len(base)] = base


def models(base: Floats, deltas: Any) -> tuple[Floats, Floats]:
    """The two models that slerp goes between: with each delta, or the base and the one with it."""
    if len(deltas) == 1:
        return base, base + deltas[0]
    return base + deltas[0], base + deltas[1]


def _scale(values: Floats, factor: float) -> None:
    """values * factor, in float32."""
    if factor != 1:
        values *= np.float32(factor)


def _term(values: Floats) -> Term:
    """Values of their own, as they are."""
    stored = Operand(values.view(np.uint8), F32)
    return Term(stored, 1.0, NO_CORRECTIONS.rest_at, NO_CORRECTIONS.rest, F32)
