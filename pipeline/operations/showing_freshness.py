"""Whether an analysis, a page or a sweep is what a run would write now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.analysis.report import Analysis
from pipeline.checkpoints.files import read_file
from pipeline.errors import CorruptFile
from pipeline.operations.analyze import ANALYSIS, analyze
from pipeline.operations.arguments import ScaledAddend
from pipeline.operations.evidence_freshness import measured_freshness, reading_of
from pipeline.operations.freshness import FingerprintOf, Freshness
from pipeline.operations.outputs.places import Place
from pipeline.operations.page import INDEX, page_content
from pipeline.operations.setup import Setup
from pipeline.operations.sweep import SWEEP, sweep
from pipeline.quality.sweep import Said
from pipeline.storage.base import Files

# What is wrong with a sweep if it was made of something else.
_OTHERS = (
    ("deltas", "is of other deltas"),
    ("weights", "has other weights"),
    ("making", "makes models otherwise"),
    ("plots", "has other plots"),
)


def analyze_freshness(deltas: Sequence[str], output: str, **options: Any) -> Freshness:
    """How the folder at `output` stands to what `analyze` of the rest would write.

    Deltas and reports are known by their content, a measured base by its files' names, sizes and
    versions: its weights are not read. Raises what `analyze` does before it reads tensors.
    """
    folder = _folder(output, options)
    if folder is None:
        return Freshness("missing")
    planned = analyze(deltas, output, **{**options, "overwrite": True}, dry_run=True)
    try:
        text = _text(folder, ANALYSIS)
        said = Analysis.from_json(text, where=output.partition("?")[0]) if text else None
    except CorruptFile:
        said = None
    if said is None:
        return Freshness("stale", "is no analysis that can be read")
    if _plain(said.made_of) != _plain(planned.made_of):
        return Freshness("stale", "is of other deltas or options")
    return Freshness("fresh")


def page_freshness(reports: Sequence[str], output: str, **options: Any) -> Freshness:
    """How the folder at `output` stands to what `page` of the rest would write.

    The page is made, and compared: reports and headers are all that is read for it. Raises what `page`
    does.
    """
    folder = _folder(output, options)
    if folder is None:
        return Freshness("missing")
    title, key = options.get("title"), options.get("key")
    settings = Setup.of(reading_of(options)).settings
    content, _ = page_content(reports, settings, title=title, key=key)
    if folder.stat(INDEX) is None or read_file(folder, INDEX) != content:
        return Freshness("stale", "says something else")
    return Freshness("fresh")


def sweep_freshness(
    base: str,
    deltas: Sequence[ScaledAddend],
    output: str,
    *,
    fingerprint_of: FingerprintOf,
    **options: Any,
) -> Freshness:
    """How the folder at `output` stands to what `sweep` of the rest would write.

    Raises what `sweep` does before it reads weights.
    """
    folder = _folder(output, options)
    if folder is None:
        return Freshness("missing")
    planned = sweep(base, deltas, output, **{**options, "overwrite": True}, dry_run=True)
    try:
        said = Said.from_json(_text(folder, SWEEP), where=output.partition("?")[0])
    except CorruptFile:
        return Freshness("stale", "is no sweep that can be read")
    now = json.loads(planned.to_json())
    problems = []
    if [*said.scales] != [point.scale for point in planned.points]:
        problems.append("has other scales")
    if (said.data, said.settings) != (now["data"], now["settings"]):
        problems.append("is of other data, settings or versions")
    problems += [text for key, text in _OTHERS if said.made_of.get(key) != now["made_of"][key]]
    if any(folder.stat(name) is None for name in said.files):
        problems.append("lacks files")
    settings = Setup.of(reading_of(options)).settings
    return measured_freshness(problems, {"base": base, **options}, said.models, settings, fingerprint_of)


def _folder(output: str, options: Mapping[str, Any]) -> Files | None:
    """What lies at `output`, if anything does."""
    place = Place.for_model(output, Setup.of(reading_of(options)))
    return place.store.folder(place.name) if place.store.has_folder(place.name) else None


def _text(folder: Files, name: str) -> str:
    return read_file(folder, name).decode(errors="replace") if folder.stat(name) else ""


def _plain(value: Any) -> Any:
    """`value` as JSON gives it back."""
    return json.loads(json.dumps(value))
