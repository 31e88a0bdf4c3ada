"""The fingerprint of a checkpoint that was seen under other names, or with rows in another order.

A run digests what it reads, and it reads a view. People and later runs know the checkpoint as it lies;
what the view shares with it need not be read again for that.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from pipeline.checkpoints.checkpoint import Checkpoint, Source
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.tensors.fingerprint import (
    DIGEST_BYTES,
    Digest,
    digest_into,
    fold_checkpoint,
    fold_tensor,
)


def fingerprint_as_found(model: Checkpoint, view: Checkpoint, digests: Mapping[str, Digest]) -> Digest:
    """The fingerprint of `model`, of which `view` has been read.

    digests: those of the view's tensors, by their names there. Tensors that the view has not, or has
    with rows in another order, are read, chunk by chunk.
    """
    known = {_place(source): digests[n] for n, source in view.tensors.items() if n in digests}
    found = {}
    for name, source in model.tensors.items():
        digest = known.get(_place(source))
        found[name] = digest if digest is not None else read_digest(model, name)
    return fold_checkpoint(found)


def _place(source: Source) -> tuple[object, ...]:
    """What two sources have in common that are the same bytes in the same form."""
    entry = source.entry
    return source.file, entry.offset, entry.dtype, entry.shape


def read_digest(model: Checkpoint, name: str) -> Digest:
    """The fingerprint of the tensor called `name`, read chunk by chunk."""
    entry, whole = model.tensors[name].entry, model.input(name)
    rows = np.zeros((-(-entry.count // CHUNK_ELEMENTS), DIGEST_BYTES), np.uint8)
    room = np.empty(min(entry.count, CHUNK_ELEMENTS) * entry.dtype.itemsize, np.uint8)
    for number, row in enumerate(rows):
        start = number * CHUNK_ELEMENTS
        if span := whole.span(start, start + CHUNK_ELEMENTS):
            data = room[: span.nbytes].data
            model.readers[span.reader].read_into(span.offset, data)
            digest_into(row, data)
    return fold_tensor(entry.dtype, entry.shape, rows)
