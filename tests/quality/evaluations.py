"""Reports of evaluations with figures of our choice, written with the product's own classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pipeline.quality.report import DataSet, Evaluation, Measurement, Role, Scores

Figures = Mapping[str, float | tuple[float, float]]


def measured(figures: Figures) -> dict[str, Measurement]:
    """Figures by name; a pair is a value and its standard error."""
    found = {}
    for name, value in figures.items():
        pair = value if isinstance(value, tuple) else (value, None)
        found[name] = Measurement(*pair, count=100)
    return found


def evaluation(
    *,
    data: tuple[DataSet, ...] = (),
    fingerprint: str = "a" * 64,
    location: str = "./model",
    **roles: Figures,
) -> Evaluation:
    """An evaluation of these roles; the model's fingerprint and location are as given."""
    scores: dict[Role, Scores] = {}
    for role, figures in roles.items():
        if role == "model":
            scores["model"] = Scores(location, fingerprint, measured(figures))
        else:
            scores[role] = Scores(f"./{role}", role[0] * 64, measured(figures))  # type: ignore[index]
    return Evaluation(scores=scores, data=data, started="2026-11-22T00:00:00+00:00")


def write(path: Path | str, found: Evaluation) -> str:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(found.to_json())
    return str(path)
