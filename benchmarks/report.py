"""Outcomes as tables for people and as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from race import Outcome
from rich.console import Console
from rich.table import Table
from shapes import elements, model_bytes

Sections = Sequence[tuple[str, Sequence[Outcome]]]  # a job's title, and what came of it

OURS = "ours"


def print_machine(console: Console, facts: Mapping[str, str]) -> None:
    """Facts, one a line."""
    for name, fact in facts.items():
        console.print(f"{name:>10}  {fact}", highlight=False)
    console.print()


def print_size(console: Console, size: str, sections: Sections) -> None:
    """One table with a section for each job."""
    table = Table(
        title=f"{size}: {elements(size) / 1e6:,.1f} M bfloat16 parameters, "
        f"{model_bytes(size) / 1e9:.2f} GB a model",
        title_justify="left",
    )
    table.add_column("", no_wrap=True)
    for heading in ("wall s", "CPU s", "peak memory", "× limit"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("elements")
    for title, outcomes in sections:
        table.add_row(f"[bold]{title}")
        for outcome in outcomes:
            table.add_row(*_cells(outcome))
        table.add_section()
    console.print(table)
    for line in conclusions(size, sections):
        console.print(line, highlight=False)
    console.print()


def _cells(outcome: Outcome) -> list[str]:
    if outcome.trouble:
        return [f"  {outcome.name}", "", "", "", "", outcome.trouble]
    peak = "" if outcome.copies else f"{max(u.peak_bytes for u in outcome.usages) / 1e6:,.0f} MB"
    return [
        f"  {outcome.name}",
        _spread([usage.wall for usage in outcome.usages]),
        f"{median(usage.cpu for usage in outcome.usages):.2f}",
        peak,
        _spread(outcome.ratios),
        _verdict(outcome),
    ]


def _spread(values: Sequence[float]) -> str:
    """The median, and the smallest and largest if there are several."""
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{median(values):.2f} ({min(values):.2f}–{max(values):.2f})"


def _verdict(outcome: Outcome) -> str:
    if outcome.differ is None:
        return ""
    return "exact" if outcome.differ == 0 else f"{outcome.differ:.2%} wrong"


def conclusions(size: str, sections: Sections) -> list[str]:
    """How many times faster than each peer ours are, in two steps and in one, per round and median."""
    _, outcomes = sections[-1]
    run = [each for each in outcomes if each.usages and not each.copies]
    ours = [each for each in run if each.name.startswith(OURS)]
    lines = []
    for peer in (each for each in run if each not in ours):
        for own in ours:
            factors = [p.wall / o.wall for p, o in zip(peer.usages, own.usages, strict=False)]
            lines.append(f"{size}: {own.name} vs {peer.name}: {_spread(factors)}× faster")
    return lines


def as_json(facts: Mapping[str, str], options: Mapping[str, Any], sizes: Mapping[str, Sections]) -> Any:
    """Everything that was measured, every single run included."""
    return {
        "machine": dict(facts),
        "options": dict(options),
        "sizes": {
            size: [
                {"job": title, "contenders": [asdict(outcome) for outcome in outcomes]}
                for title, outcomes in sections
            ]
            for size, sections in sizes.items()
        },
    }
