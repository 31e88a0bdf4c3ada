"""From results to figures: of each model by itself, and of the one that is judged against the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.errors import UsageError
from pipeline.operations.evaluating.measuring import Results
from pipeline.quality.compare import Tasks, flips, gap_recovered, transfer_slope
from pipeline.quality.divergence import divergence_figures
from pipeline.quality.likelihood import text_figures
from pipeline.quality.report import Role, metric_of
from pipeline.quality.scores import Figures, overall_figures, task_figures

OF_TEXT = ("bits_per_byte", "perplexity", "finite", "kl", "same_top")
OF_TASKS = ("task", "eos_rate", "flips", "gap_recovered", "transfer_slope")
METRICS = OF_TEXT + OF_TASKS
TOKEN_BY_TOKEN = ("kl", "same_top")
_NEEDS: Mapping[str, tuple[Role, ...]] = {
    "kl": ("reference",),
    "same_top": ("reference",),
    "flips": ("reference",),
    "gap_recovered": ("base", "reference"),
    "transfer_slope": ("base", "donor", "donor_base"),
}


def choose_metrics(
    wanted: Sequence[str] | None, roles: Sequence[Role], *, has_text: bool, has_tasks: bool
) -> list[str]:
    """The metrics to measure: those that are wanted, or all that models and data allow.

    Raises UsageError for one that there is not, or that lacks a model or data.
    """
    for name in wanted or ():
        if name not in METRICS:
            raise UsageError(f"{name!r} is not a metric", hint=f"use {', '.join(METRICS)}")
        lacking = [f"--{role.replace('_', '-')}" for role in _NEEDS.get(name, ()) if role not in roles]
        if lacking:
            raise UsageError(f"{name} needs another model", hint=f"add {' and '.join(lacking)}")
        if not (has_text if name in OF_TEXT else has_tasks):
            kind = "text" if name in OF_TEXT else "questions"
            raise UsageError(f"{name} is measured on {kind}, and no --data has any")
    fitting = (*OF_TEXT * has_text, *OF_TASKS * has_tasks)
    possible = [name for name in fitting if set(_NEEDS.get(name, ())) <= set(roles)]
    return [name for name in possible if wanted is None or name in wanted]


def all_figures(results: Mapping[Role, Results], metrics: Sequence[str]) -> dict[Role, Figures]:
    """The figures of every role, those of `metrics` alone; comparisons are the model's."""
    found: dict[Role, Figures] = {}
    for role, result in results.items():
        tasks = {**task_figures(result.answers), **result.harness}
        texts = text_figures(result.documents) if result.documents else {}
        texts |= divergence_figures(result.divergences) if result.divergences else {}
        overall = overall_figures(result.answers, task_scores(tasks))
        found[role] = {**texts, **tasks, **overall}
    found["model"] |= _comparisons(results, {role: task_scores(each) for role, each in found.items()})
    return {role: _only(each, metrics) for role, each in found.items()}


def task_scores(figures: Figures) -> Tasks:
    """The figure of each task by the task's name."""
    return {
        name.removeprefix("task:"): figure
        for name, figure in figures.items()
        if name.startswith("task:") and "." not in name
    }


def _comparisons(results: Mapping[Role, Results], scores: Mapping[Role, Tasks]) -> Figures:
    figures: Figures = {}
    answers = {role: result.answers for role, result in results.items()}
    if "reference" in results:
        figures |= flips(answers["model"], answers["reference"])
    if "base" in results and "reference" in results:
        items = (answers["model"], answers["base"], answers["reference"])
        figures |= gap_recovered(scores["model"], scores["base"], scores["reference"], items)
    if {"base", "donor", "donor_base"} <= results.keys():
        others = (scores["base"], scores["donor"], scores["donor_base"])
        figures |= transfer_slope(scores["model"], *others)
    return figures


def _only(figures: Figures, metrics: Sequence[str]) -> Figures:
    """Those of `metrics`, in the order of `METRICS`, so that tables and files are read alike."""
    return {
        name: figures[name]
        for kind in METRICS
        if kind in metrics
        for name in figures
        if metric_of(name) == kind
    }
