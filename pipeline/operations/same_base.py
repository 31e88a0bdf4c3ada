"""Whether an addend goes onto the very base it was made on, judged before the run from a few chunks."""

from __future__ import annotations

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.operations.addends.addend import Addend
from pipeline.tensors.dtypes import DType

_PROBES = 8  # chunks that are compared


def looks_like_same_base(base: Checkpoint, addend: Addend, dtype: DType | None) -> bool:
    """Whether post would come back, in format `dtype` or its own, if `addend` were added to `base`.

    A few chunks are compared here; all of them are while the result is written.
    """
    tensors = addend.tensors
    if set(tensors) != set(base.tensors):
        return False  # `fit` will say what is wrong
    for name, tensor in tensors.items():
        entry, record = base.tensors[name].entry, tensor.record
        if (entry.shape, entry.dtype) != (record.base_shape, record.base):
            return False
        if dtype not in (None, record.post) and record.post.is_float:
            return False
    filled = [name for name, t in tensors.items() if len(t.digests) and all(t.record.base_shape)]
    return addend.is_on(base, filled[:: max(1, len(filled) // _PROBES)])
