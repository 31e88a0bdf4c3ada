"""What a walk finds out about each chunk of a delta that it makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from pipeline.deltas.chunks import Tables


@dataclass(frozen=True)
class Findings:
    """A row for each chunk in every table, each written by one worker.

    tables: see there; the encoders fill them in. counts: of elements that are changed, of remainders, of
    exceptions. norms: see `tensors.norms`.
    """

    tables: Tables
    counts: NDArray[np.int64]
    norms: NDArray[np.float64]

    @classmethod
    def beside(cls, tables: Tables) -> Self:
        """Findings for the chunks of `tables`."""
        rows = len(tables.digests)
        return cls(tables, np.zeros((rows, 3), np.int64), np.zeros((rows, 3)))
