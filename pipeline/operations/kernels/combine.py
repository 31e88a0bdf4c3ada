"""The kernel of combine: a chunk of each delta in, their sum out, and what it found."""

from __future__ import annotations

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
from pipeline.tensors.arithmetic import CpuArithmetic, Operand, Term
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
        total, corrections = self._arithmetic.combine(terms, Operand(out, record.stored))
        nothing = Operand(out[:0], total.dtype)
        measure_into(self.found.norms[part.row], total, nothing)
        changed = np.count_nonzero(total.data.view(f"<f{total.dtype.itemsize}"))
        self.found.counts[part.row] = changed, len(corrections.rest_at), 0
        return self.encode(part.row, out, record.stored, corrections)

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
        base_shape=max(each.record.base_shape for each in stored),
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
