"""What deltas are made of, as numbers, and the file that keeps it: `analysis.json`.

All is of δ = post − base, as the delta restores it exactly; sums are in float64.

| field | what it is | unit |
|---|---|---|
| `l2` | L2 norm of δ | of the weights |
| `base_l2` | L2 norm of the base's elements that δ belongs to | of the weights |
| `relative` | `l2` / `base_l2` | 1 |
| `max` | largest abs(δ) | of the weights |
| `changed` | share of elements that are not zero in δ | 1 |
| `cosine` | of two deltas, seen as vectors | 1 |
| `both` | share of elements that are nonzero in both deltas | 1 |
| `same_sign` | of those, the share that has the same sign in both; TIES elects among the others | 1 |

A number is null where it is not known, or would not be finite. What is not counted (carried tensors,
rows that the base lacks, elements that are no finite numbers) is said of each tensor.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from pipeline.checkpoints.strict_json import plain
from pipeline.errors import CorruptFile
from pipeline.version import TOOL

FORMAT = "paramdelta-analysis/1"
Group = Literal["attention", "mlp", "norm", "embedding", "other"]
GROUPS: tuple[Group, ...] = ("attention", "mlp", "norm", "embedding", "other")


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Singular values of a tensor of two or more dimensions, seen as rows of its last dimension.

    effective_rank: exp of the entropy of σ²/Σσ². energy: share of Σσ² that the largest k singular values
    have, by k as text, ascending. sampled: whether they are those of a random sketch of `sketch` rows
    and columns; where the spectrum is flat, its rank is lower and its energies are higher than true.
    """

    effective_rank: float
    energy: Mapping[str, float]
    sampled: bool
    sketch: tuple[int, int]


@dataclass(frozen=True, slots=True)
class TensorFigures:
    """One tensor of a delta.

    layer: its number, None outside of layers. module: the last part of its name that says what it does,
    "q_proj". dtype: of the stored values. elements: that are counted; 0 if `left_out` says why none is.
    grown_rows: rows that the base lacks, which are post's own and not counted. nonfinite: elements
    that are no finite numbers, which count as zero. spectrum: None for vectors and what is all zeros.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layer: int | None
    group: Group
    module: str
    elements: int
    changed: float | None
    l2: float | None
    base_l2: float | None
    relative: float | None
    max: float | None
    spectrum: Spectrum | None = None
    grown_rows: int = 0
    nonfinite: int = 0
    left_out: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Several tensors of a delta together: those of a layer, a group, a module; None means any."""

    layer: int | None
    group: Group | None
    module: str | None
    tensors: int
    elements: int
    changed: float | None
    l2: float | None
    base_l2: float | None
    relative: float | None
    max: float | None


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many elements have which size.

    counts[i] have 2^(first + i) ≤ abs(δ) < 2^(first + i + 1); zeros have δ = 0. group: None means all.
    """

    group: Group | None
    first: int
    counts: Sequence[int]
    zeros: int


@dataclass(frozen=True, slots=True)
class DeltaFigures:
    """One delta. location: as people may see it. base, post: where they were, None of a combination.

    measured_base: where `base_l2` is from, if not from the manifest. elements: of all tensors, counted
    or not. dtypes: of stored values. tensors: in the delta's order. groups, layers, layer_groups:
    sums; cells: of each layer × module; tensors outside of layers are in `groups` and `total` alone.
    """

    location: str
    fingerprint: str
    base: str | None
    post: str | None
    base_fingerprint: str | None
    measured_base: str | None
    elements: int
    dtypes: Sequence[str]
    total: Part
    groups: Sequence[Part]
    layers: Sequence[Part]
    layer_groups: Sequence[Part]
    cells: Sequence[Part]
    histograms: Sequence[Histogram]
    tensors: Sequence[TensorFigures]


@dataclass(frozen=True, slots=True)
class Agreement:
    """How two deltas agree on a layer, a group, a module; None means any. See above for the figures."""

    layer: int | None
    group: Group | None
    module: str | None
    elements: int
    cosine: float | None
    both: float | None
    same_sign: float | None


@dataclass(frozen=True, slots=True)
class PairFigures:
    """Two deltas, by their numbers in `Analysis.deltas`. uncompared: tensors that one of them lacks, or
    has in another shape; at most 100 names, `uncompared_count` is how many there are."""

    first: int
    second: int
    total: Agreement
    groups: Sequence[Agreement]
    layers: Sequence[Agreement]
    layer_groups: Sequence[Agreement]
    cells: Sequence[Agreement]
    uncompared: Sequence[str] = ()
    uncompared_count: int = 0


@dataclass(frozen=True, slots=True)
class Analysis:
    """Deltas, and each pair of them. seconds: how long it took. started: UTC, ISO 8601.

    made_of: what tells whether a run would write the same: digests, and options.
    """

    deltas: Sequence[DeltaFigures]
    pairs: Sequence[PairFigures] = ()
    seconds: float = 0.0
    started: str = ""
    format: str = FORMAT
    tool: str = TOOL
    made_of: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The file's text. A figure that is no finite number is written as null."""
        return json.dumps(plain(asdict(self)), ensure_ascii=False, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Self:
        """Read what `to_json` wrote. Raises CorruptFile, naming `where`, for anything else."""
        try:
            raw = json.loads(text)
            if raw["format"] != FORMAT:
                raise CorruptFile(f"its format is not {FORMAT}", where=where)
            return cls(
                deltas=tuple(_delta(each) for each in raw["deltas"]),
                pairs=tuple(_pair(each) for each in raw["pairs"]),
                seconds=float(raw["seconds"]),
                started=str(raw["started"]),
                tool=str(raw["tool"]),
                made_of={**raw.get("made_of", {})},
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            hint = "analyse the deltas again: cli.py analyze DELTA --output DIR"
            raise CorruptFile("it is not the report of an analysis", where=where, hint=hint) from error


def _delta(raw: Mapping[str, Any]) -> DeltaFigures:
    parts = {
        name: tuple(Part(**each) for each in raw[name])
        for name in ("groups", "layers", "layer_groups", "cells")
    }
    rest = {
        "total": Part(**raw["total"]),
        "histograms": tuple(Histogram(**each) for each in raw["histograms"]),
        "tensors": tuple(_tensor(each) for each in raw["tensors"]),
    }
    return DeltaFigures(**{**raw, **parts, **rest})


def _tensor(raw: Mapping[str, Any]) -> TensorFigures:
    found = raw["spectrum"]
    spectrum = None
    if found is not None:
        rows, columns = found["sketch"]
        spectrum = Spectrum(**{**found, "sketch": (int(rows), int(columns))})
    return TensorFigures(**{**raw, "shape": tuple(raw["shape"]), "spectrum": spectrum})


def _pair(raw: Mapping[str, Any]) -> PairFigures:
    parts = {
        name: tuple(Agreement(**each) for each in raw[name])
        for name in ("groups", "layers", "layer_groups", "cells")
    }
    return PairFigures(**{**raw, **parts, "total": Agreement(**raw["total"])})
