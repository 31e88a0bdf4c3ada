"""What apply says of itself: the report, which the model card and the provenance are made of, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SAME_BASE = "same base, restored and verified bit for bit"
ANOTHER_BASE = "another base, the formula rounded once"


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """What apply did, or with `dry_run` would do.

    case: `SAME_BASE` or `ANOTHER_BASE`. nonfinite: elements of the result that are NaN or infinite.
    base_distance: |new base - old base| / |old base|, if the old base was given.
    carried: tensors taken whole from post because they are not float and differ from its base. pushed:
    the URL of the commit on the Hub. download_bytes, upload_bytes, memory_bytes: as planned, see
    `Estimate`. addend_fingerprints: for each of `deltas`, that of the "delta", or of the "base" and
    "post" whose difference was taken on the way. fusion: the method, its figures and patterns, if it is
    more than a sum; left_out: the tensors that it leaves as they are in the new base.
    """

    output: str
    base: str
    deltas: Sequence[tuple[str, float]]
    dry_run: bool
    case: str
    tensors: int
    elements: int
    read_bytes: int
    written_bytes: int
    files: Sequence[str]
    fingerprint: str | None = None
    base_fingerprint: str | None = None
    addend_fingerprints: Sequence[Mapping[str, str]] = ()
    nonfinite: int | None = None
    base_distance: float | None = None
    carried: Sequence[str] = ()
    config_differences: Sequence[str] = ()
    fusion: Mapping[str, Any] | None = None
    left_out: Sequence[str] = ()
    pushed: str | None = None
    download_bytes: int = 0
    upload_bytes: int = 0
    memory_bytes: int = 0
