"""The two pages: of one transfer with all its evidence, and of all that lies in a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pipeline.analysis.page.facts import Delta, Evidence, Plot, Release, Tensor
from pipeline.analysis.page.layers import Chart, by_layer
from pipeline.analysis.page.layout import ACROSS, DOWN, draw
from pipeline.analysis.page.lineage import trace
from pipeline.analysis.page.merging import merge
from pipeline.analysis.page.scores import TITLES, arrange, gap_mean
from pipeline.analysis.page.templates import fill, place_name

MAX_TENSORS = 2000  # of a delta in a table: more makes pages that nobody can scroll
MAX_PLOTS_BYTES = 1_800_000  # all plots of a page: as text they are a third larger


@dataclass(frozen=True, slots=True)
class Change:
    """A delta as the page shows it: its tensors are those that changed most, if they are too many."""

    delta: Delta
    tensors: Sequence[Tensor]
    chart: Chart | None
    widest: float

    @classmethod
    def of(cls, delta: Delta) -> Change:
        """What to show of `delta`."""
        shown = list(delta.tensors)
        if len(shown) > MAX_TENSORS:
            shown = sorted(shown, key=lambda tensor: -(tensor.relative or 0))[:MAX_TENSORS]
        widest = max((tensor.relative or 0 for tensor in shown), default=0)
        return cls(delta, shown, by_layer(delta.tensors), widest)


def build_page(evidence: Evidence, *, title: str | None = None) -> bytes:
    """The page of `evidence`, as HTML in UTF-8, with nothing in it that is loaded from elsewhere.

    title: what it is about; the last release's name, or the last delta's, unless said.
    """
    merged = merge(evidence)
    plots = _fitting(merged.plots)
    lineage = trace(merged)
    scores = [arrange(each) for each in merged.evaluations]
    gaps = [gap for each in merged.evaluations if (gap := gap_mean(each))]
    return fill(
        "page.html",
        title=title or _title(merged),
        evidence=merged,
        lineage=lineage,
        drawings=[draw(lineage, ACROSS), draw(lineage, DOWN)] if lineage.nodes else [],
        scores=scores,
        titles=TITLES,
        main=_main_delta(merged),
        gap=gaps[-1] if gaps else None,
        changes=[Change.of(delta) for delta in merged.deltas],
        plots=plots,
        plots_left_out=len(merged.plots) - len(plots),
        signed=_signed(merged),
    )


def _title(evidence: Evidence) -> str:
    """What the page is about."""
    models = [each.model.location for each in evidence.releases[-1:]]
    models += [each.model.location for each in evidence.deltas[:1]]
    models += [each.model.location for each in evidence.evaluations]
    return next((name for each in models if (name := place_name(each))), "Evidence")


def _main_delta(evidence: Evidence) -> Delta | None:
    """The delta that the page is about: one that the release is made of, or else the first."""
    parts = [part.delta for release in evidence.releases[-1:] for part in release.parts]
    known = {each for part in parts for each in (part.fingerprint, part.location) if each}
    used = [d for d in evidence.deltas if {d.model.fingerprint, d.model.location} & known]
    return next(iter(used or evidence.deltas), None)


def _fitting(plots: Sequence[Plot]) -> list[Plot]:
    """The plots that the page has room for, in their order."""
    found: list[Plot] = []
    room = MAX_PLOTS_BYTES
    for plot in plots:
        if len(plot.content) <= room:
            room -= len(plot.content)
            found.append(plot)
    return found


def _signed(evidence: Evidence) -> list[tuple[str, Delta | Release]]:
    """What may be signed, with what it is."""
    deltas: list[tuple[str, Delta | Release]] = [("delta", each) for each in evidence.deltas]
    return deltas + [("release", each) for each in evidence.releases]
