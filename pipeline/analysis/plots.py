"""stub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.analysis.report import Analysis


def draw_analysis(analysis: Analysis, formats: Sequence[str]) -> Mapping[str, bytes]:
    """Stub."""
    return {}
