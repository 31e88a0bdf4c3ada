"""The kernel of combine: a chunk of each delta in, their sum out, and what it found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline.checkpoints.alignment import is_absent
from pipeline.deltas.chunks import ChunkDecoder, ChunkEncoder
from pipeline.deltas.format import BASE, STORED
from pipeline.deltas.manifest import TensorRecord
from pipeline.deltas.stored import StoredTensor
from pipeline.engine.plan import Slice
from pipeline.operations.kernels.findings import Findings
from pipeline.operations.kernels.rows import RowRule, cut, piece, pieces
from pipeline.tensors.arithmetic import Corrections, CpuArithmetic, Operand, Term
from pipeline.tensors.dtypes import Bytes
from pipeline.tensors.fingerprint import fold_tensor
from pipeline.tensors.norms import Norms, fold, measure_into


@dataclass
class CombineKernel:
    """One worker's kernel: a chunk of each delta in, their sum out."""

    parents: Sequence[Sequence[StoredTensor]]
    scales: Sequence[float]
    found: Findings
    decoders: Sequence[ChunkDecoder]
    encode: ChunkEncoder
    keeps_base: bool
    rules: Sequence[Sequence[RowRule]]  # by job, for rows that are no differences

    def __post_init__(self) -> None:
        self._arithmetic = CpuArithmetic()

    def __call__(self, part: Slice, inputs: Sequence[Bytes], out: Bytes) -> bytes:
        """See `Kernel`."""
        stored = self.parents[part.job]
        record = stored[0].record
        decoded = [
            decode(each, part.chunk, values, rest)
            for decode, each, values, rest in zip(
                self.decoders, stored, inputs[::2], inputs[1::2], strict=True
            )
        ]
        if self.keeps_base:
            self.found.tables.digests[part.row, BASE] = stored[0].digests[part.chunk, BASE]
        if record.carried:
            return self._carry(part, stored, [values for values, _ in decoded], out)
        terms = [
            Term(
                Operand(values, each.record.stored),
                scale,
                corrections.rest_at,
                corrections.rest,
                each.record.width,
            )
            for each, scale, (values, corrections) in zip(stored, self.scales, decoded, strict=True)
        ]
        if is_absent(record.base_shape, record.shape):  # of no base: the same in all, and not scaled
            terms = [replace(terms[0], scale=1.0)]
        corrections = self._add_up(part, terms, record, Operand(out, record.stored))
        return self.encode(part.row, out, record.stored, corrections)

    def _add_up(
        self, part: Slice, terms: Sequence[Term], record: TensorRecord, out: Operand
    ) -> Corrections:
        """Fill `out` with the sum, by the rules of its rows, and measure it; returns what it lost."""
        norms, counts = self.found.norms[part.row], self.found.counts[part.row]
        norms[:], counts[:] = 0, 0
        lost = []
        for low, high, rule in pieces(self.rules[part.job], math.prod(record.shape[1:]), part):
            scales = rule.scales if rule else [term.scale for term in terms]
            cuts = [
                cut(term, low, high, scale)
                for term, scale in zip(terms, scales, strict=True)
                if scale is not None
            ]
            total, corrections = self._arithmetic.combine(cuts, piece(out, low, high))
            measured = np.zeros(3)
            measure_into(measured, total, piece(total, 0, 0))
            norms[:] = *(norms[:2] + measured[:2]), np.maximum(norms[2], measured[2])
            counts[0] += np.count_nonzero(total.data.view(f"<f{total.dtype.itemsize}"))
            lost.append((corrections.rest_at + np.uint32(low), corrections.rest))
        rest_at, rest = (np.concatenate(each) for each in zip(*lost, strict=True))
        counts[1] = len(rest_at)
        return replace(corrections, rest_at=rest_at, rest=rest)

    def _carry(
        self, part: Slice, stored: Sequence[StoredTensor], values: Sequence[Bytes], out: Bytes
    ) -> bytes:
        """The values of the last delta that changed the tensor, as apply would take them."""
        record: TensorRecord = stored[0].record
        out[:] = values[0]
        for each, data in zip(stored, values, strict=True):
            if each.record.changed and each.record.post == record.post:
                out[:] = data
                self.found.counts[part.row, 0] = part.count
        return self.encode(part.row, out, record.stored, None)


def describe_sum(
    found: Findings, stored: Sequence[StoredTensor], rows: slice, *, keeps_base: bool
) -> TensorRecord:
    """What the manifest says of one tensor, once the walk is done."""
    first = stored[0].record
    changed, remainders, _ = (int(total) for total in found.counts[rows].sum(axis=0))
    norms = Norms() if first.carried else fold(found.norms[rows])
    return replace(
        first,
        changed=changed,
        remainders=remainders,
        exceptions=0,
        base_digest=first.base_digest if keeps_base else None,
        post_digest=None,
        stored_digest=fold_tensor(first.stored, first.shape, found.tables.digests[rows, STORED]),
        delta_l2=norms.delta_l2,
        base_l2=first.base_l2 if keeps_base else None,
        delta_max=norms.delta_max,
    )
