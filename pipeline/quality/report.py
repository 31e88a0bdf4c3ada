"""What was measured of a model and of those that it is held against, and the file that keeps it.

A figure's name is `metric`, `metric:dataset`, `metric.statistic` or `metric:dataset.statistic`:

| name | what it is | unit |
|---|---|---|
| `bits_per_byte`, `bits_per_byte:SET` | what the model needs for a byte of held-out text | bits |
| `perplexity`, `perplexity:SET` | exp of the mean negative log-likelihood of a token | 1 |
| `finite`, `finite:SET` | share of logits that are finite numbers | 1 |
| `kl.mean`, `kl.median`, `kl.p99`, `kl:SET.mean`, … | KL(reference ‖ model) of the next token | nats |
| `same_top`, `same_top:SET` | share of positions where both hold the same token likeliest | 1 |
| `task:NAME`, `task.mean`, `task.min` | share of right answers, of a task and over the tasks | 1 |
| `task:NAME.normalised` | the same of multiple choice, by log-likelihood per byte of the choice | 1 |
| `eos_rate`, `eos_rate:NAME` | share of generated answers that the model itself ended | 1 |
| `flips`, `flips:NAME`, `flips:NAME.lost`, `….gained` | share of answers right on one side only | 1 |
| `gap_recovered:NAME`, `gap_recovered.mean`, `….min` | (model − base) / (reference − base) | 1 |
| `transfer_slope` | slope of actual on hypothetical scores over the tasks | 1 |

Names without a set are over all sets: of text and answers pooled, of tasks as they say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self

from pipeline.checkpoints.strict_json import plain
from pipeline.errors import CorruptFile
from pipeline.version import TOOL

FORMAT = "paramdelta-evaluation/1"
# model: what is judged. base: the new base, without the delta. reference: the new base really
# post-trained, or whatever else the model should be like. donor_base, donor: the delta's own two models.
Role = Literal["model", "base", "reference", "donor_base", "donor"]
ROLES: tuple[Role, ...] = ("model", "base", "reference", "donor_base", "donor")


@dataclass(frozen=True, slots=True)
class Measurement:
    """One figure. standard_error: of `value`, None if it has none. count: of what it was taken over."""

    value: float
    standard_error: float | None = None
    count: int = 0


# Figures that stand behind others end so; none is to be high or low by itself.
BEHIND = (".lost", ".gained", ".compared", ".shared")


def metric_of(name: str) -> str:
    """The metric that a figure of this name is of."""
    return name.replace(":", ".").partition(".")[0]


@dataclass(frozen=True, slots=True)
class DataSet:
    """What was measured on. digest: BLAKE3 of its bytes. items: documents or questions."""

    name: str
    kind: Literal["text", "task", "harness"]
    digest: str
    items: int


@dataclass(frozen=True, slots=True)
class Scores:
    """The figures of one model. fingerprint: its checkpoint's. figures: by name, see above."""

    location: str
    fingerprint: str
    figures: Mapping[str, Measurement]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """One model measured, and those that it is held against.

    scores: by role; "model" is always there. settings: all that figures depend on beside models and
    data. data: in the order given. items: where the answers and documents are kept one by one, by role;
    files of JSON lines. seconds: how long it took. started: UTC, ISO 8601.
    """

    scores: Mapping[Role, Scores]
    data: Sequence[DataSet] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    items: Mapping[Role, str] = field(default_factory=dict)
    seconds: float = 0.0
    started: str = ""
    format: str = FORMAT
    tool: str = TOOL

    @property
    def model(self) -> Scores:
        """The figures of the model that is judged."""
        return self.scores["model"]

    def to_json(self) -> str:
        """The file's text. A figure that is no finite number is written as null."""
        return json.dumps(plain(asdict(self)), ensure_ascii=False, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Self:
        """Read what `to_json` wrote; null is not a number again.

        Raises CorruptFile, naming `where`, for anything else.
        """
        try:
            raw = json.loads(text)
            if raw["format"] != FORMAT:
                raise CorruptFile(f"its format is not {FORMAT}", where=where)
            scores = {role: _scores(raw["scores"][role]) for role in ROLES if role in raw["scores"]}
            if "model" not in scores:
                raise CorruptFile("it has no scores of a model", where=where)
            data = tuple(DataSet(**each) for each in raw["data"])
            rest = {name: raw[name] for name in ("settings", "items", "seconds", "started", "tool")}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            hint = "evaluate the model again: cli.py evaluate MODEL --data FILE --output REPORT"
            raise CorruptFile("it is not the report of an evaluation", where=where, hint=hint) from error
        return cls(scores=scores, data=data, **rest)


def _scores(raw: Mapping[str, Any]) -> Scores:
    figures = {str(name): _measurement(**each) for name, each in raw["figures"].items()}
    return Scores(str(raw["location"]), str(raw["fingerprint"]), figures)


def _measurement(value: float | None, standard_error: float | None, count: int) -> Measurement:
    error = None if standard_error is None else float(standard_error)
    return Measurement(math.nan if value is None else float(value), error, int(count))
