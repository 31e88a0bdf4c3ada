"""Whether a delta goes onto the very base it was made on, judged before the run from a few chunks."""

from __future__ import annotations

import numpy as np

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.deltas.delta import Delta
from pipeline.deltas.format import BASE
from pipeline.deltas.stored import StoredTensor
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.tensors.dtypes import DType
from pipeline.tensors.fingerprint import DIGEST_BYTES, digest_into

_PROBES = 8  # chunks that are compared


def looks_like_same_base(base: Checkpoint, delta: Delta, dtype: DType | None) -> bool:
    """Whether post would come back, in format `dtype` or its own, if `delta` were added to `base`.

    A few chunks are compared with their digests here; all of them are while the result is written.
    """
    tensors = delta.tensors
    if not delta.manifest.post or set(tensors) != set(base.tensors):
        return False  # a combination; or `fit` will say what is wrong
    for name, stored in tensors.items():
        entry, record = base.tensors[name].entry, stored.record
        if (entry.shape, entry.dtype) != (record.base_shape, record.base):
            return False
        if dtype not in (None, record.post) and record.post.is_float:
            return False
    filled = [name for name, stored in tensors.items() if len(stored.digests)]
    probed = filled[:: max(1, len(filled) // _PROBES)]
    return all(_first_chunk_matches(base, name, tensors[name]) for name in probed)


def _first_chunk_matches(base: Checkpoint, name: str, stored: StoredTensor) -> bool:
    source = base.tensors[name]
    size = min(source.entry.count, CHUNK_ELEMENTS) * source.entry.dtype.itemsize
    data = np.empty(size, np.uint8)
    base.readers[source.file].read_into(source.entry.offset, data.data)
    found = np.empty(DIGEST_BYTES, np.uint8)
    digest_into(found, data.data)
    return bool(np.array_equal(found, stored.digests[0, BASE]))
