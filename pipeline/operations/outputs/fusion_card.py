"""What a model's card says of how its deltas were put together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.operations.outputs.markdown import as_code
from pipeline.operations.outputs.report import ApplyReport


def formula(report: ApplyReport) -> str:
    """What the result is: the sum, or what the method makes of its terms."""
    terms = [f"{exact(scale)} · ∆{number}" for number, (_, scale) in enumerate(report.deltas, 1)]
    if report.fusion is None:
        return " + ".join(["base", *terms])
    return f"{report.fusion['method']}({', '.join(['base', *terms])})"


def fusion_lines(report: ApplyReport) -> Iterator[str]:
    """Lines of Markdown; none for a plain sum. People's patterns are shown as code."""
    if report.fusion is None:
        return
    figures = dict(report.fusion)
    method = figures.pop("method")
    yield f"Put together by the method {as_code(method)}; the factors above are its weights."
    yield ""
    yield from (f"- {name.replace('_', ' ')}: {_shown(value)}" for name, value in figures.items())
    if report.skipped:
        yield f"- tensors that keep the base's values: {len(report.skipped)}"
    yield ""


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(
            as_code(each) if isinstance(each, str) else f"{as_code(each[0])} × {exact(each[1])}"
            for each in value
        )
    return exact(value)


def exact(number: float) -> str:
    """A number in as few digits as give it back."""
    return repr(number).removesuffix(".0")
