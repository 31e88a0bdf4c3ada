"""Results on standard output, for people or for machines."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.errors import printable
from pipeline.units import format_bytes

if TYPE_CHECKING:
    from pipeline.analysis.report import Part, TensorFigures
    from pipeline.batch.events import Event
    from pipeline.batch.report import BatchReport, StepResult
    from pipeline.operations.analyze import AnalyzeReport
    from pipeline.operations.doctor.report import Health
    from pipeline.operations.inspect import Inspection
    from pipeline.operations.outputs.report import ApplyReport
    from pipeline.operations.storing.cleaning import CleanReport
    from pipeline.operations.storing.deleting import DeleteReport
    from pipeline.operations.storing.listing import Listing
    from pipeline.quality.report import Evaluation, Measurement
    from pipeline.quality.sweep import Sweep
    from pipeline.quality.verdict import Verdict


def show_json(report: Any) -> None:
    """Print a report (a dataclass) as one JSON object; `ok` comes first in one that may say no."""
    if hasattr(report, "to_json"):  # it is kept in a file, too, in just these bytes
        print(report.to_json())
        return
    verdict = {"ok": report.ok} if hasattr(report, "ok") else {}
    print(json.dumps({**verdict, **dataclasses.asdict(report)}, ensure_ascii=False))


def show(report: Any) -> None:
    """Print a report (a dataclass) as lines of name and value; what is for programs is left to JSON."""
    fields = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    shown = {name: value for name, value in fields.items() if not _is_empty(value)}
    shown.pop("made_of", None)
    _print_lines(shown)


def show_apply(report: ApplyReport) -> None:
    """Print what apply did, then a table of the keys on which the configs do not agree."""
    show(dataclasses.replace(report, config_table=()))
    if report.config_table:
        print()
        rows = [(r.key, r.base, r.post, r.result, r.whose) for r in report.config_table]
        _print_table(("config.json", "new base", "post", "result", "whose"), rows)


_STATUS = {"fresh": "up to date", "planned": "to do"}


def show_step(step: StepResult) -> None:
    """Print a line for a step of a batch as it ends, and on a dry run what it would do."""
    status = _STATUS.get(step.status, step.status)
    what = step.error or step.reason or (f"after {', '.join(step.waits_for)}" if step.waits_for else "")
    text = f"{status:10} {step.id} ({step.run}, {step.seconds:.1f} s)"
    print(f"{text}: {printable(what)}" if what else text, flush=True)
    if step.status == "planned" and step.result:
        sizes = {name: step.result.get(f"{name}_bytes") for name in _SIZES}
        shown = [f"{name} {format_bytes(size)}" for name, size in sizes.items() if size is not None]
        print(f"{'':10} {', '.join(shown)}", flush=True)


def show_step_end(event: Event) -> None:
    """Print a line for an event of a batch, if a step ended by it."""
    from pipeline.batch.events import StepEnded

    if isinstance(event, StepEnded):
        show_step(event.step)


def show_event(event: Event) -> None:
    """Print an event of a batch as a line of JSON on standard error."""
    from pipeline.batch.events import as_line

    print(as_line(event), file=sys.stderr, flush=True)


def show_batch(report: BatchReport) -> None:
    """Print how many of a batch's steps ended how."""
    statuses = [step.status for step in report.steps]
    counts = ", ".join(f"{statuses.count(s)} {_STATUS.get(s, s)}" for s in dict.fromkeys(statuses))
    print(f"{len(statuses)} steps: {counts}")


def show_inspection(found: Inspection) -> None:
    """Print what inspect found: its facts, then a table of its tensors."""
    facts = {name: value for name, value in found.facts.items() if not _is_empty(value)}
    head = {"location": found.location, "kind": found.kind}
    sizes = {"tensors": len(found.tensors), "elements": found.elements, "bytes": found.nbytes}
    _print_lines({**head, **sizes, **facts})
    is_delta = found.kind == "delta"
    rows = []
    for line in found.tensors:
        counts = [getattr(line, name) for name in _COUNTS[: 3 * is_delta]]
        shape = " × ".join(str(size) for size in line.shape) or "scalar"
        size = format_bytes(line.nbytes)
        rows.append((line.name, line.dtype, shape, size, *(f"{n:,}" for n in counts)))
    print()
    _print_table(("tensor", "dtype", "shape", "size", *_COUNTS[: 3 * is_delta]), rows)


_TOP_TENSORS = 5


def show_analysis(report: AnalyzeReport) -> None:
    """Print what analyze found: of each delta its groups and foremost tensors, then each pair."""
    if report.analysis is None:
        show(report)
        return
    for number, delta in enumerate(report.analysis.deltas, 1):
        print(printable(f"{number}: {delta.location}" if len(report.deltas) > 1 else delta.location))
        parts = [("all", delta.total), *((part.group or "", part) for part in delta.groups)]
        known = [tensor for tensor in delta.tensors if tensor.relative is not None]
        top = sorted(known, key=lambda tensor: -(tensor.relative or 0.0))[:_TOP_TENSORS]
        rows = [(name, *_figures(part)) for name, part in parts]
        rows += [(tensor.name, *_figures(tensor)) for tensor in top]
        _print_table(("", "elements", "changed", "|δ|", "|δ|/|base|", "max |δ|"), rows)
        left_out = sum(tensor.left_out is not None for tensor in delta.tensors)
        grown = sum(tensor.grown_rows for tensor in delta.tensors)
        if left_out or grown:
            print(f"not counted: {left_out} carried or empty tensors, {grown} rows that the base lacks")
        print()
    for pair in report.analysis.pairs:
        figures = {"cosine": pair.total.cosine, "equal signs": pair.total.same_sign}
        text = ", ".join(f"{name} {_number(value)}" for name, value in figures.items())
        print(f"{pair.first + 1} and {pair.second + 1}: {text}")
    print(printable(f"{len(report.files)} files in {report.output}"))


def _figures(part: Part | TensorFigures) -> tuple[str, ...]:
    changed = "" if part.changed is None else f"{part.changed:.2%}"
    return f"{part.elements:,}", changed, *map(_number, (part.l2, part.relative, part.max))


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"


def show_listing(found: Listing) -> None:
    """Print what list found, a line each."""
    rows = []
    for item in found.items:
        notes = [f"{item.base or '?'} → {item.post or '?'}"] if item.kind == "delta" else []
        notes += ["signed"] * item.signed
        notes += [item.problem] if item.problem else []
        size = format_bytes(item.nbytes)
        rows.append((item.name, item.kind, size, item.modified, "; ".join(notes)))
    if rows:
        _print_table(("name", "kind", "size", "modified", ""), rows)
    total = format_bytes(sum(item.nbytes for item in found.items))
    print(f"{len(rows)} in {found.store}, {total}")


def show_deletion(report: DeleteReport, to: TextIO | None = None) -> None:
    """Print what delete did, or would do."""
    rows = [
        (item.name, item.kind, f"{item.files:,} files", format_bytes(item.nbytes))
        for item in report.items
    ]
    _print_table(("name", "kind", "files", "size"), rows, to)
    size = format_bytes(report.nbytes)
    verb = "deleted" if report.deleted else "would delete"
    print(f"{verb} {report.files:,} files, {size}", file=to)


def show_cleaning(report: CleanReport, to: TextIO | None = None) -> None:
    """Print what clean removed, or would remove, and what stays."""
    rows = [
        (item.name, item.kind, format_bytes(item.nbytes), _age(item.age), item.kept or "")
        for item in report.items
    ]
    if rows:
        _print_table(("name", "what", "size", "age", "stays because"), rows, to)
    free = [item for item in report.items if not item.kept]
    what = f"removed {report.removed}" if report.removed else f"could remove {len(free)}"
    print(f"{what} of {len(rows)} leftovers in {report.store}, {format_bytes(report.nbytes)}", file=to)
    if free and not report.removed:
        unknown = any(item.age is None for item in free)
        doubt = ", once no run is writing there: the age of some is unknown" if unknown else ""
        print(f"--yes removes them{doubt}", file=to)


def show_evaluation(report: Evaluation) -> None:
    """Print a table with a row for each figure and a column for each model, with standard errors.

    What stands behind a figure is left to the report: a share's parts, and what it was taken of.
    """
    found = dict.fromkeys(name for scores in report.scores.values() for name in scores.figures)
    names = _shown_figures(found)
    rows = [
        (name, *(_figure(scores.figures.get(name)) for scores in report.scores.values()))
        for name in names
    ]
    _print_lines({role.replace("_", " "): scores.location for role, scores in report.scores.items()})
    print()
    if rows:
        _print_table(("figure", *(role.replace("_", " ") for role in report.scores)), rows)
        print(f"\n{len(found) - len(names)} more figures are in the report (--output, --format json)")
    else:
        _print_table(("data", "kind", "items"), [(d.name, d.kind, f"{d.items:,}") for d in report.data])


def _figure(found: Measurement | None) -> str:
    if found is None:
        return ""
    value = f"{found.value:.4g}" if abs(found.value) >= 100 else f"{found.value:.4f}"
    return value if found.standard_error is None else f"{value} ± {found.standard_error:.2g}"


def show_sweep(report: Sweep) -> None:
    """Print a row for each figure and a column for each scale, so many a table; * marks the best."""
    from pipeline.quality.sweep import as_written, names_of

    names = _shown_figures(names_of(report.points))
    heads = [as_written(point.scale) for point in report.points]
    deltas = [f"{name} × {weight:g}" for name, weight in report.deltas]
    sizes = {"model_bytes": report.model_bytes, "disk_bytes": report.disk_bytes}
    _print_lines({"base": report.base, "deltas": deltas, "scales": ", ".join(heads), **sizes})
    if not names:
        return
    for start in range(0, len(heads), _SCALES_ABREAST):
        part = slice(start, start + _SCALES_ABREAST)
        rows = []
        for name in names:
            best = report.best.get(name)
            cells = [
                _figure(point.figures.get(name)) + (" *" if best and point.scale == best.scale else "")
                for point in report.points[part]
            ]
            rows.append((name, *cells, ", ".join(map(as_written, best.within)) if best else ""))
        print()
        _print_table(("figure", *heads[part], "as good as the best"), rows)
    print("\n* the best scale; as good: within one standard error of it")
    print(printable(f"{len(report.files)} files in {report.output}"))
    print(f"note: {report.note}")


def _shown_figures(names: Iterable[str]) -> list[str]:
    """Those of the names of figures that are no parts of others."""
    from pipeline.quality.report import BEHIND

    return [name for name in names if not name.startswith(_PARTS) and not name.endswith(BEHIND)]


def show_checks(report: Health) -> None:
    """Print what doctor found, a line for each check."""
    width = max(len(check.name) for check in report.checks)
    for check in report.checks:
        hint = f" ({check.hint})" if check.hint else ""
        print(f"{check.status:7}  {check.name:{width}}  {printable(check.detail + hint)}")


def show_verdict(verdict: Verdict) -> None:
    """Print what a gate says, a line for each comparison with both sides, and their figures."""
    rows = []
    for each in verdict.judgements:
        error = "" if each.standard_error is None else f"{each.standard_error:.4g}"
        figures = ", ".join(f"{name} {figure.value:.6g}" for name, figure in each.figures.items())
        rows.append(("passed" if each.passed else "REFUSED", each.comparison, each.why, error, figures))
    _print_table(("", "condition", "why", "se", "figures"), rows)
    held = sum(each.passed for each in verdict.judgements)
    print(f"{held} of {len(rows)} hold for {printable(verdict.model)}")


def _age(seconds: float | None) -> str:
    """An age as people say it, in its largest unit."""
    if seconds is None:
        return "unknown"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def _print_table(heads: Sequence[str], rows: Sequence[Sequence[str]], to: TextIO | None = None) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*heads, box=None)
    for row in rows:
        table.add_row(*map(printable, row))
    # Names are data: rich must not read them as markup, nor cut them when the output is a file.
    file = to or sys.stdout
    Console(file=file, markup=False, width=None if file.isatty() else 200).print(table)


_SIZES = ("read", "download", "written", "upload", "memory")
_PARTS = ("finite:", "eos_rate:")
_SCALES_ABREAST = 8  # columns that the width of a file has room for
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
    elif hasattr(value, "lines"):
        yield from value.lines()
    elif name.endswith("bytes"):
        yield format_bytes(value)
    elif name.endswith("share"):
        yield f"{value:.2%}"
    elif isinstance(value, int) and not isinstance(value, bool):
        yield f"{value:,}"
    else:
        yield "yes" if value is True else str(value)
