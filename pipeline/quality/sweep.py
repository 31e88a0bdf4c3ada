"""What deltas do at several scales: the figures of each, which is best by what, and the file of it.

Figures have the names and units of `pipeline.quality.report`. Best is the highest share of right
answers, of ended ones, of equal tokens, of the gap; the lowest of bits, perplexity, KL and flips. What
says how evenly a model follows others, `transfer_slope`, has no best. The scales that may as well be the
best are those within one standard error of it, the rule of Breiman et al., *Classification and
Regression Trees*, 1984, section 3.4.3; of a figure without a standard error, it alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from pipeline.checkpoints.strict_json import plain
from pipeline.errors import CorruptFile
from pipeline.quality.report import BEHIND, ROLES, DataSet, Measurement, Role, Scores, metric_of
from pipeline.version import TOOL

FORMAT = "paramdelta-sweep/1"
NOTE = (
    "a scale that is picked by these data looks better on them than it is: "
    "measure it on held-out data before you report a figure"
)
_HIGHER = ("finite", "same_top", "task", "eos_rate", "gap_recovered")
_LOWER = ("bits_per_byte", "perplexity", "kl", "flips")


@dataclass(frozen=True, slots=True)
class Best:
    """The best scale by one figure. within: all scales within a standard error of it, ascending."""

    scale: float
    within: Sequence[float]


@dataclass(frozen=True, slots=True)
class Point:
    """One scale. fingerprint: of the model that base and deltas make; 0 is the base itself.

    report: the file with the whole evaluation. made: whether the model was made in this run. model: its
    location, if it was kept.
    """

    scale: float
    fingerprint: str = ""
    figures: Mapping[str, Measurement] = field(default_factory=dict)
    report: str | None = None
    made: bool = False
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Sweep:
    """The deltas at every scale, ascending.

    deltas: each with the weight that scales are multiplied by. others: figures of the models that every
    point is held against, the base among them. best: by figure. settings: all that figures depend on
    beside models and data. made_of: what tells whether a run would find the same: digests. model_bytes:
    of one model. disk_bytes: what temporary or kept models take at most at once, on this machine. files:
    in the folder. seconds: how long it took. started: UTC, ISO 8601.
    """

    output: str
    base: str
    deltas: Sequence[tuple[str, float]]
    points: Sequence[Point]
    dry_run: bool = False
    others: Mapping[Role, Scores] = field(default_factory=dict)
    best: Mapping[str, Best] = field(default_factory=dict)
    data: Sequence[DataSet] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    made_of: Mapping[str, Any] = field(default_factory=dict)
    model_bytes: int = 0
    disk_bytes: int = 0
    files: Sequence[str] = ()
    seconds: float = 0.0
    started: str = ""
    note: str = NOTE
    format: str = FORMAT
    tool: str = TOOL

    def to_json(self) -> str:
        """The file's text. A figure that is no finite number is written as null."""
        return json.dumps(plain(asdict(self)), ensure_ascii=False, indent=2) + "\n"


@dataclass(frozen=True, slots=True)
class Said:
    """What the file of a sweep says of how it was made; see `Sweep` for the fields.

    models: the fingerprints of those that every point is held against, by role.
    """

    scales: Sequence[float]
    data: Any
    settings: Any
    made_of: Mapping[str, Any]
    models: Mapping[Role, str]
    files: Sequence[str]

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Self:
        """Read it from what `to_json` wrote. Raises CorruptFile, naming `where`, for anything else."""
        try:
            raw = json.loads(text)
            if raw["format"] != FORMAT:
                raise CorruptFile(f"its format is not {FORMAT}", where=where)
            scales = [float(each["scale"]) for each in raw["points"]]
            files = [str(name) for name in raw["files"]]
            made_of = {**raw["made_of"]}
            said = {**made_of.pop("models")}
            models = {role: str(said[role]) for role in ROLES if role in said}
            return cls(scales, raw["data"], raw["settings"], made_of, models, files)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            hint = "sweep again: cli.py sweep --base B --delta D --data FILE --output DIR --overwrite"
            raise CorruptFile("it is not the report of a sweep", where=where, hint=hint) from error


def as_written(scale: float) -> str:
    """A scale as people write it; no two scales are written alike."""
    short = f"{scale:g}"
    return short if float(short) == scale else repr(scale)


def is_higher_better(name: str) -> bool | None:
    """Whether a figure should be high; None if neither high nor low is better."""
    kind = metric_of(name)
    if name.endswith(BEHIND) or kind not in (*_HIGHER, *_LOWER):
        return None
    return kind in _HIGHER


def names_of(points: Sequence[Point]) -> list[str]:
    """The names of all figures, each once."""
    return list(dict.fromkeys(name for point in points for name in point.figures))


def known_of(points: Sequence[Point], name: str) -> list[tuple[float, Measurement]]:
    """Where a figure is known: the scale, and what it is there."""
    return [
        (point.scale, point.figures[name])
        for point in points
        if name in point.figures and math.isfinite(point.figures[name].value)
    ]


def best_of(points: Sequence[Point]) -> dict[str, Best]:
    """The best scale by each figure that has a direction and differs; of equals that nearest to 0."""
    found = {}
    for name in names_of(points):
        higher = is_higher_better(name)
        known = known_of(points, name)
        if higher is None or len({figure.value for _, figure in known}) < 2:
            continue
        sign = 1.0 if higher else -1.0
        scale, figure = max(known, key=lambda each: (sign * each[1].value, -abs(each[0])))
        error = figure.standard_error or 0.0
        bound = sign * figure.value - (error if math.isfinite(error) else 0.0)
        found[name] = Best(scale, [at for at, each in known if sign * each.value >= bound])
    return found
