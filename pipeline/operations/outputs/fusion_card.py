"""What a model's card says of how its deltas were put together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.operations.outputs.report import ApplyReport


def fusion_lines(report: ApplyReport) -> Iterator[str]:
    """Lines of Markdown; none for a plain sum. People's patterns are shown as code."""
    if report.fusion is None:
        return
    figures = dict(report.fusion)
    method = figures.pop("method")
    yield f"Put together by the method {_code(method)}; the factors above are its weights."
    yield ""
    yield from (f"- {name.replace('_', ' ')}: {_shown(value)}" for name, value in figures.items())
    if report.skipped:
        yield f"- tensors that keep the base's values: {len(report.skipped)}"
    yield ""


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(
            _code(each) if isinstance(each, str) else f"{_code(each[0])} × {each[1]:g}" for each in value
        )
    return f"{value:g}" if isinstance(value, float) else str(value)


def _code(text: str) -> str:
    """`text` as inline code that it can't break out of."""
    return "`" + text.replace("`", "'").replace("\n", " ") + "`"
