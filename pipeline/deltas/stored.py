"""One tensor of an opened delta: what the manifest says of it, and where its chunks lie."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.deltas.manifest import TensorRecord


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a delta: its record, and its chunks' share of the tables.

    offset: where its values lie in the plain form; 0 in the packed one. bounds: where the chunks' parts
    begin in the indexed bytes, in order, and where the last ends. digests: (chunks, 3 or 4, 32) bytes.
    """

    record: TensorRecord
    offset: int
    bounds: NDArray[np.uint64]
    digests: NDArray[np.uint8]

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.record.shape)

    @property
    def changed(self) -> bool:
        """Whether post differs from base anywhere."""
        return bool(self.record.changed)
