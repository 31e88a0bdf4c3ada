"""What a model card says of its base's lineage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.operations.lineage.figures import Extreme
from pipeline.operations.outputs.markdown import as_code
from pipeline.operations.outputs.report import ApplyReport


def lineage_lines(report: ApplyReport) -> Iterator[str]:
    """A line of markdown for each thing that is known of how the bases and the result stand together."""
    for number, found in enumerate(report.lineage, 1):
        yield f"- base and that of ∆{number}: {as_code(str(found))}"
        for problem in found.problems:
            yield f"- **unrelated bases were allowed** for ∆{number}: {as_code(problem)}"
    if report.base_distance is not None:
        between = _between(report.distance_extremes)
        yield f"- relative distance of base and old base: {report.base_distance:.4g}{between}"
    if report.movement_cosine is not None:
        between = _between(report.movement_extremes)
        yield f"- cosine of ∆1 and what the base has moved: {report.movement_cosine:.4g}{between}"
    if report.relative_change is not None:
        between = _between(report.change_extremes)
        yield f"- change relative to the base: {report.relative_change:.4g}{between}"


def _between(extremes: Sequence[Extreme]) -> str:
    """The least and the greatest, each with its tensor."""
    if not extremes:
        return ""
    shown = (f"{as_code(each.tensor)} {each.value:.4g}" for each in extremes)
    return f", from {' to '.join(shown)}"
