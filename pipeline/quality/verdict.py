"""The verdict of a gate, and the file that keeps it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from pipeline.errors import CorruptFile
from pipeline.quality.gate import Judgement
from pipeline.quality.report import Measurement
from pipeline.version import TOOL

FORMAT = "paramdelta-gate/1"
_HINT = "judge the report again: cli.py gate REPORT --require CONDITION --output VERDICT"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says of a model. No times in it: the same report and conditions give the same bytes.

    report: the evaluation's location. report_digest: BLAKE3 of its bytes. model, fingerprint: of the
    model that was judged. require: the conditions as they were given. judgements: of each comparison.
    output: where the verdict is kept, None if nowhere.
    """

    report: str
    report_digest: str
    model: str
    fingerprint: str
    require: Sequence[str]
    judgements: Sequence[Judgement]
    output: str | None = None
    format: str = FORMAT
    tool: str = TOOL

    @property
    def passed(self) -> bool:
        """Whether all that was asked for holds."""
        return bool(self.judgements) and all(each.passed for each in self.judgements)

    @property
    def refusals(self) -> tuple[str, ...]:
        """What does not hold, and why, a text for each."""
        return tuple(f"{e.comparison}: {e.why}" for e in self.judgements if not e.passed)

    @property
    def ok(self) -> bool:
        """The same as `passed`, under the name that reports have for it."""
        return self.passed

    def to_json(self) -> str:
        """The file's text: strict JSON."""
        content = {"passed": self.passed, **asdict(self)}
        for judgement in content["judgements"]:
            for figure in judgement["figures"].values():
                for name in ("value", "standard_error"):
                    figure[name] = _strict(figure[name])
        return json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> Self:
        """Read what `to_json` wrote. Raises CorruptFile, naming `where`, for anything else.

        Also for one that says it passed where one of its judgements did not, or the other way round.
        """
        try:
            raw = json.loads(text)
            if raw["format"] != FORMAT:
                raise CorruptFile(f"its format is not {FORMAT}", where=where, hint=_HINT)
            found = cls(
                **{name: _text(raw[name]) for name in ("report", "report_digest", "model")},
                fingerprint=_text(raw["fingerprint"]),
                require=tuple(_text(each) for each in raw["require"]),
                judgements=tuple(_judgement(each) for each in raw["judgements"]),
                output=None if raw["output"] is None else _text(raw["output"]),
                tool=_text(raw["tool"]),
            )
            said = raw["passed"]
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptFile("it is not the verdict of a gate", where=where, hint=_HINT) from error
        if said is not found.passed:
            raise CorruptFile("it says other than its judgements", where=where, hint=_HINT)
        return found


def _judgement(raw: Mapping[str, Any]) -> Judgement:
    figures = {_text(name): _measurement(**each) for name, each in raw["figures"].items()}
    if not isinstance(raw["passed"], bool):
        raise TypeError("passed is neither true nor false")
    return Judgement(**{**raw, "figures": figures})


def _measurement(value: float | None, standard_error: float | None, count: int) -> Measurement:
    return Measurement(math.nan if value is None else value, standard_error, count)


def _strict(value: float | None) -> float | None:
    """A number as strict JSON has it."""
    return value if value is not None and math.isfinite(value) else None


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value
