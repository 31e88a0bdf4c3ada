"""Results on standard output, for people or for machines."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.errors import printable
from pipeline.units import format_bytes

if TYPE_CHECKING:
    from pipeline.batch.report import BatchReport, StepResult
    from pipeline.operations.inspect import Inspection


def show(report: Any, *, as_json: bool) -> None:
    """Print a report (a dataclass): as one JSON object, or as lines of name and value."""
    if as_json:
        print(json.dumps(dataclasses.asdict(report), ensure_ascii=False))
        return
    fields = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    _print_lines({name: value for name, value in fields.items() if not _is_empty(value)})


def show_step(step: StepResult) -> None:
    """Print one line for a step of a batch as it ends."""
    what = f": {step.error}" if step.error else ""
    print(f"{step.status:8} {step.id} ({step.run}, {step.seconds:.1f} s){what}", flush=True)


def show_batch(report: BatchReport, *, as_json: bool) -> None:
    """Print a batch's report as JSON, or how many of its steps ended how."""
    if as_json:
        print(report.to_json())
        return
    statuses = [step.status for step in report.steps]
    counts = ", ".join(f"{statuses.count(s)} {s}" for s in dict.fromkeys(statuses))
    print(f"{len(statuses)} steps: {counts}")


def show_inspection(found: Inspection, *, as_json: bool) -> None:
    """Print what inspect found: its facts, then a table of its tensors."""
    if as_json:
        print(json.dumps(dataclasses.asdict(found), ensure_ascii=False))
        return
    facts = {name: value for name, value in found.facts.items() if not _is_empty(value)}
    head = {"location": found.location, "kind": found.kind}
    sizes = {"tensors": len(found.tensors), "elements": found.elements, "bytes": found.nbytes}
    _print_lines({**head, **sizes, **facts})
    from rich.console import Console
    from rich.table import Table

    is_delta = found.kind == "delta"
    table = Table("tensor", "dtype", "shape", "size", *_COUNTS[: 3 * is_delta], box=None)
    for line in found.tensors:
        counts = [getattr(line, name) for name in _COUNTS[: 3 * is_delta]]
        shape = " × ".join(str(size) for size in line.shape) or "scalar"
        table.add_row(
            line.name, line.dtype, shape, format_bytes(line.nbytes), *(f"{n:,}" for n in counts)
        )
    print()
    # Names are data: rich must not read them as markup, nor cut them when the output is a file.
    Console(markup=False, width=None if sys.stdout.isatty() else 200).print(table)


_COUNTS = ("changed", "remainders", "exceptions")


def _is_empty(value: Any) -> bool:
    return value is None or value is False or value in ((), [], {})


def _print_lines(facts: dict[str, Any]) -> None:
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        first, *more = map(printable, _lines(name, value))
        print(f"{name.replace('_', ' '):{width}}  {first}")
        for line in more:
            print(f"{'':{width}}  {line}")


def _lines(name: str, value: Any) -> Iterator[str]:
    """`value` as people read it; a list takes a line for each item."""
    if isinstance(value, list | tuple):
        for item in value:
            yield f"{item[0]} × {item[1]:g}" if isinstance(item, tuple) else str(item)
    elif name.endswith("bytes"):
        yield format_bytes(value)
    elif name.endswith("share"):
        yield f"{value:.2%}"
    elif isinstance(value, int) and not isinstance(value, bool):
        yield f"{value:,}"
    else:
        yield "yes" if value is True else str(value)
