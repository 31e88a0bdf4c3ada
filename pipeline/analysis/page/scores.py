"""Scores of an evaluation as tables: tasks with all roles side by side, and every other figure."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

from pipeline.analysis.page.values import MAX_ROWS
from pipeline.quality.report import ROLES, Evaluation, Measurement, Role

TASK = "task:"
GAP = "gap_recovered"
TITLES: Mapping[Role, str] = {
    "donor_base": "old base",
    "donor": "old post",
    "base": "new base",
    "model": "transferred",
    "reference": "reference",
}
_ORDER: tuple[Role, ...] = ("donor_base", "donor", "base", "model", "reference")
_STATISTICS = ("mean", "median", "p99", "min", "max", "normalised", "lost", "gained")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, of every role that has it. gap: the share of the gap that was recovered, of a task."""

    name: str
    cells: Mapping[Role, Measurement]
    gap: Measurement | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """An evaluation as tables. roles: those that were measured, in the order of columns.

    figures: of all that was measured on; details: of one set or task each.
    """

    evaluation: Evaluation
    roles: Sequence[Role]
    tasks: Sequence[Row]
    figures: Sequence[Row]
    details: Sequence[Row]
    summary: Sequence[Row]


def arrange(evaluation: Evaluation) -> Scores:
    """The tables of `evaluation`."""
    assert set(_ORDER) == set(ROLES)
    roles = [role for role in _ORDER if role in evaluation.scores]
    own = evaluation.model.figures
    names = list(dict.fromkeys(name for role in roles for name in evaluation.scores[role].figures))
    tasks: list[Row] = []
    figures: list[Row] = []
    details: list[Row] = []
    summary: list[Row] = []
    known = set(names)
    for name in names[:MAX_ROWS]:
        cells = dict(_cells(evaluation, name))
        if name.startswith(TASK) and not _is_statistic(name, known):
            task = name.removeprefix(TASK)
            tasks.append(Row(task, cells, own.get(f"{GAP}:{task}")))
        elif name == "task.mean":
            summary.append(Row("mean", cells, own.get(f"{GAP}.mean")))
        elif name == "task.min":
            summary.append(Row("lowest", cells, own.get(f"{GAP}.min")))
        elif not name.startswith(GAP):
            (details if ":" in name else figures).append(Row(name, cells))
    if not figures:
        figures, details = details, []
    return Scores(evaluation, roles, tasks, figures, details, summary)


def _is_statistic(name: str, names: Container[str]) -> bool:
    """Whether a figure is one of a task beside its score; a task's own name may have dots, too."""
    task, dot, last = name.rpartition(".")
    return bool(dot) and (last in _STATISTICS or task in names)


def _cells(evaluation: Evaluation, name: str) -> Iterator[tuple[Role, Measurement]]:
    for role, scores in evaluation.scores.items():
        if name in scores.figures:
            yield role, scores.figures[name]


def gap_mean(evaluation: Evaluation) -> Measurement | None:
    """The share of the gap that was recovered, over all tasks."""
    return evaluation.model.figures.get(f"{GAP}.mean")
