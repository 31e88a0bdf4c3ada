"""Judging a report by conditions: what was compared with what, and whether it holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

from pipeline.errors import UsageError
from pipeline.quality.report import Evaluation, Measurement
from pipeline.quality.terms import (
    STAR,
    Chain,
    Comparison,
    Condition,
    Figure,
    Negative,
    Number,
    StandardError,
    Term,
    position,
    with_caret,
)

# Of a name, after its last dot: figures of a set which are none of the set itself.
_STATISTICS = ("mean", "median", "p99", "min", "max", "normalised", "lost", "gained")


@dataclass(frozen=True, slots=True)
class Judgement:
    """One comparison, judged.

    condition: as it was written. comparison: what was compared, with the set's name for a star. left,
    right: what both sides come to, None for what is no finite number. standard_error: of the
    comparison, None if it does not ask for it. figures: those in it, base's as base.NAME. why: both
    sides, in words.
    """

    condition: str
    comparison: str
    left: float | None
    operator: str
    right: float | None
    passed: bool
    why: str
    standard_error: float | None = None
    figures: Mapping[str, Measurement] = field(default_factory=dict)


def judge(evaluation: Evaluation, conditions: Iterable[Condition]) -> tuple[Judgement, ...]:
    """Every comparison of the conditions, judged; one with a star, once for each set.

    A side that is no finite number holds against nothing. Raises UsageError, with all places, for a
    figure or a model that was not measured, and for a standard error that there is none of.
    """
    found: list[Judgement] = []
    problems: list[tuple[str, str]] = []
    for condition in conditions:
        for comparison in condition.comparisons:
            judging = _Judging(evaluation, condition.text, comparison)
            for name in judging.sets():
                figures = judging.measured(name)
                problems += judging.problems
                if not judging.problems:
                    found.append(judging.judge(name, figures))
                judging.problems.clear()
    if problems:
        what = "; ".join(dict.fromkeys(text for text, _ in problems))
        raise UsageError(what, hint=problems[0][1])
    return tuple(found)


@dataclass
class _Judging:
    """One comparison of a condition, and what is wrong with it in view of the report."""

    evaluation: Evaluation
    text: str
    comparison: Comparison
    problems: list[tuple[str, str]] = field(default_factory=list)

    def sets(self) -> Sequence[str]:
        """The sets that a star stands for; one that is not used, if there is no star."""
        starred = next((each for each in self.comparison.figures if each.is_starred), None)
        if starred is None or starred.name is None:
            return [""]
        return _sets_of(starred.name, self.evaluation) or [STAR]

    def measured(self, name: str) -> dict[str, Measurement]:
        """The figures of the comparison, with the set `name` for a star. Notes what there is not."""
        found: dict[str, Measurement] = {}
        for figure in self.comparison.figures:
            key = self._name_of(figure, name)
            scores = self.evaluation.scores.get(figure.role)
            if scores is None:
                self._note(f"no {figure.role} was measured", figure.start)
            elif key not in scores.figures:
                close = get_close_matches(key, scores.figures, 1)
                meant = f": did you mean {close[0]}?" if close else ""
                self._note(f"the {figure.role} has no figure {key!r}{meant}", figure.start)
            else:
                found[_shown(figure.role, key)] = scores.figures[key]
                if self.comparison.has_standard_error and not _has_error(scores.figures[key]):
                    what = f"{_shown(figure.role, key)} has no standard error, so se means nothing"
                    self._note(what, figure.start)
        return found

    def judge(self, name: str, figures: Mapping[str, Measurement]) -> Judgement:
        """The verdict, of a comparison that nothing is missing of."""
        errors = [each.standard_error or 0.0 for each in figures.values()]
        error = math.hypot(*errors) if self.comparison.has_standard_error else None
        values = {shown: each.value for shown, each in figures.items()}

        def value(term: Term) -> float:
            match term:
                case Number(number):
                    return number
                case StandardError():
                    return error or 0.0
                case Figure(role=role):
                    return values[_shown(role, self._name_of(term, name))]
                case Negative(inner):
                    return -value(inner)
                case Chain(first, rest):
                    result = value(first)
                    for sign, each in rest:
                        result = _joined(result, sign, value(each))
                    return result

        left, right = value(self.comparison.left), value(self.comparison.right)
        operator = self.comparison.operator
        passed = _holds(left, operator, right)
        return Judgement(
            self.text, self._shown(name), _finite(left), operator, _finite(right), passed,
            _why(left, operator, right, passed), error, figures,
        )  # fmt: skip

    def _name_of(self, figure: Figure, name: str) -> str:
        """A figure's name in the report."""
        return (figure.name or self.comparison.names[0]).replace(f":{STAR}", f":{name}", 1)

    def _shown(self, name: str) -> str:
        """The comparison as it was written, with the set's name for a star."""
        text = self.text[: self.comparison.end]
        for figure in sorted(self.comparison.figures, key=lambda each: -each.start):
            if figure.is_starred:
                shown = _shown(figure.role, self._name_of(figure, name))
                text = text[: figure.start] + shown + text[figure.end :]
        return text[self.comparison.start :]

    def _note(self, what: str, at: int) -> None:
        text = f"{self.text}: {position(self.text, at)}: {what}"
        self.problems.append((text, with_caret(self.text, at)))


def _sets_of(name: str, evaluation: Evaluation) -> list[str]:
    """The sets that any model of the report has a figure `name` of, in the report's order.

    A set that only the base was measured on is one of them: the model lacks it, and that is to be said.
    """
    metric, _, rest = name.partition(f":{STAR}")
    begin = f"{metric}:"
    all_names = dict.fromkeys(n for scores in evaluation.scores.values() for n in scores.figures)
    found = [
        key.removeprefix(begin).removesuffix(rest)
        for key in all_names
        if key.startswith(begin) and key.endswith(rest) and len(key) > len(begin + rest)
    ]
    if rest:
        return found
    harness = {each.name for each in evaluation.data if each.kind == "harness"}
    return [each for each in found if not _is_statistic(each, {*found}, harness)]


def _is_statistic(text: str, sets: set[str], harness: set[str]) -> bool:
    """Whether SET.STATISTIC stands behind the metric, not a set whose name has a dot."""
    _, dot, last = text.rpartition(".")
    if dot and last in _STATISTICS:
        return True
    return any(text.startswith(f"{each}.") for each in sets & harness)


def _shown(role: str, name: str) -> str:
    return name if role == "model" else f"{role}.{name}"


def _has_error(measured: Measurement) -> bool:
    error = measured.standard_error
    return error is not None and math.isfinite(error) and error >= 0


def _joined(left: float, sign: str, right: float) -> float:
    match sign:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
    return left / right if right else math.nan


def _holds(left: float, operator: str, right: float) -> bool:
    if not (math.isfinite(left) and math.isfinite(right)):
        return False
    match operator:
        case ">=":
            return left >= right
        case "<=":
            return left <= right
        case ">":
            return left > right
        case "<":
            return left < right
    return left == right


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _why(left: float, operator: str, right: float, passed: bool) -> str:
    """Both sides in words; with all digits, if fewer would not show the difference."""
    if not (math.isfinite(left) and math.isfinite(right)):
        side = "left" if not math.isfinite(left) else "right"
        return f"the {side} side is no finite number"
    texts = f"{left:.6g}", f"{right:.6g}"
    if texts[0] == texts[1] and left != right:
        texts = repr(left), repr(right)
    return f"{texts[0]} is {'' if passed else 'not '}{operator} {texts[1]}"
