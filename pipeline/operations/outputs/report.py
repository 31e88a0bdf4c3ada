"""What apply says of itself: the report, which the model card and the provenance are made of, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.checkpoints.config_policy import ConfigRow
from pipeline.checkpoints.vocabulary_table import VocabularyTable
from pipeline.operations.lineage.figures import Extreme, Lineage

SAME_BASE = "same base, restored and verified bit for bit"
ANOTHER_BASE = "another base, the formula rounded once"


@dataclass(frozen=True, slots=True)
class ApplyReport:
    """What apply did, or with `dry_run` would do.

    case: `SAME_BASE` or `ANOTHER_BASE`. nonfinite: elements of the result that are NaN or infinite,
    as they were in an input; nonfinite_tensors: the tensors that have some, and how many.
    base_distance: |new base - old base| / |old base|, if the old base was given.
    movement_cosine: the cosine of the first delta and new base - old base, likewise. relative_change:
    |result - new base| / |new base|, on another base. *_extremes: the tensors with the least and the
    greatest of each.
    lineage: how the new base stands to that of each of `deltas`, unless it is the very same.
    carried: tensors taken whole from post because they are not float and differ from its base.
    pushed: the URL of the commit on the Hub. read_bytes, download_bytes, upload_bytes, memory_bytes:
    as planned, see `Estimate`; what a method surveys is read once more, and counted.
    addend_fingerprints: for each of `deltas`, that of the "delta", or of the "base" and "post" whose
    difference was taken on the way. vocabulary: how rows were brought together. renamed, tied,
    only_post, left_out, untied: see `NameNotes`. config_table: the keys on which new base, post and
    result do not all agree. derived: which models were not stored as they are read, and from what
    their values were made. fusion: the method, its figures and patterns, if it is more than a sum;
    skipped: the tensors that it leaves as they are in the new base. recalled_bytes: of the models that
    are read, those whose digests an earlier run had made, if digests are kept.
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
    nonfinite_tensors: Sequence[tuple[str, int]] = ()
    base_distance: float | None = None
    distance_extremes: Sequence[Extreme] = ()
    movement_cosine: float | None = None
    movement_extremes: Sequence[Extreme] = ()
    relative_change: float | None = None
    change_extremes: Sequence[Extreme] = ()
    lineage: Sequence[Lineage] = ()
    carried: Sequence[str] = ()
    config_table: Sequence[ConfigRow] = ()
    renamed: Sequence[str] = ()
    tied: Sequence[str] = ()
    only_post: Sequence[str] = ()
    left_out: Sequence[str] = ()
    untied: bool = False
    derived: Sequence[str] = ()
    fusion: Mapping[str, Any] | None = None
    skipped: Sequence[str] = ()
    pushed: str | None = None
    download_bytes: int = 0
    upload_bytes: int = 0
    memory_bytes: int = 0
    vocabulary: VocabularyTable | None = None
    recalled_bytes: int | None = None
