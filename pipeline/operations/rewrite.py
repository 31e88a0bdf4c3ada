"""Deltas made of deltas: the layout of the new one, and what its tensors are read from."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.checkpoints.header import Tensor
from pipeline.deltas.delta import Delta
from pipeline.deltas.format import CARRIED, Codec
from pipeline.deltas.layout import DeltaLayout
from pipeline.deltas.manifest import TensorRecord
from pipeline.deltas.stored import StoredTensor
from pipeline.engine.plan import Plan


def lay_out(
    records: Sequence[TensorRecord], source: Delta, codec: Codec
) -> tuple[DeltaLayout, list[StoredTensor]]:
    """The layout of a delta with `records`, and the tensors of `source` in its order."""
    names = {CARRIED + record.name if record.carried else record.name: record for record in records}
    tensors = [Tensor(name, record.stored, record.shape) for name, record in names.items()]
    layout = DeltaLayout.plan(tensors, list(source.companions), codec)
    return layout, [source.tensors[names[tensor.name].name] for tensor in layout.tensors]


def plan_rewrite(
    layout: DeltaLayout, stored: Sequence[Sequence[StoredTensor]], deltas: Sequence[Delta]
) -> Plan:
    """The plan of `layout`: inputs are the two parts of each delta's tensor, deltas being readers."""
    return layout.fill(
        tuple(
            part
            for number, (delta, each) in enumerate(zip(deltas, parents, strict=True))
            for part in delta.inputs(each, number)
        )
        for parents in stored
    )
