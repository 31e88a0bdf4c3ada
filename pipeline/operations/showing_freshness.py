"""Whether an analysis, a page or a sweep is what a run would write now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pipeline.analysis.report import Analysis
from pipeline.checkpoints.adapters.post import open_model
from pipeline.checkpoints.files import read_file
from pipeline.errors import CorruptFile
from pipeline.operations.analyze import ANALYSIS, analyze
from pipeline.operations.arguments import ScaledAddend
from pipeline.operations.evaluating.models import base_of
from pipeline.operations.freshness import FingerprintOf, Freshness
from pipeline.operations.outputs.places import Place
from pipeline.operations.page import INDEX, page_content
from pipeline.operations.setup import Reading, Setup
from pipeline.operations.sweep import SWEEP, sweep
from pipeline.quality.report import ROLES, Role
from pipeline.quality.sweep import Said
from pipeline.storage.base import Files


def analyze_freshness(deltas: Sequence[str], output: str, **options: Any) -> Freshness:
    """How the folder at `output` stands to what `analyze` of the rest would write.

    Deltas and reports are known by their content, a measured base by its files' names, sizes and
    versions: its weights are not read. Raises what `analyze` does before it reads tensors.
    """
    folder = _folder(output, options.get("store"))
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
    folder = _folder(output, options.get("store"))
    if folder is None:
        return Freshness("missing")
    title, key = options.get("title"), options.get("key")
    settings = Setup.of(_store(options.get("store"))).settings
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
    folder = _folder(output, options.get("store"))
    if folder is None:
        return Freshness("missing")
    planned = sweep(base, deltas, output, **{**options, "overwrite": True}, dry_run=True)
    try:
        said = Said.from_json(_text(folder, SWEEP), where=output.partition("?")[0])
    except CorruptFile:
        return Freshness("stale", "is no sweep that can be read")
    now = json.loads(planned.to_json())
    problems, unread = [], []
    if [*said.scales] != [point.scale for point in planned.points]:
        problems.append("has other scales")
    if (said.data, said.settings) != (now["data"], now["settings"]):
        problems.append("is of other data, settings or versions")
    models = said.made_of.get("models", {})
    if {**said.made_of, "models": None} != {**now["made_of"], "models": None}:
        problems.append("is of other deltas")
    if any(folder.stat(name) is None for name in said.files):
        problems.append("lacks files")
    roles: dict[Role, str] = {"base": base}
    roles |= {role: options[role] for role in ROLES if options.get(role)}
    if {*models} != {*roles}:
        problems.append("is held against other models")
    for role, text in roles.items():
        with open_model(text, base=base_of(role, roles), headers_only=True) as checkpoint:
            found = fingerprint_of(checkpoint)
            if found is None:
                unread.append(checkpoint.location)
            elif role in models and str(found) != models[role]:
                problems.append(f"is of another {role}")
    if problems:
        return Freshness("stale", ", and ".join(problems))
    return Freshness("unknown", unread=unread) if unread else Freshness("fresh")


def _folder(output: str, store: str | None) -> Files | None:
    """What lies at `output`, if anything does."""
    place = Place.for_model(output, Setup.of(_store(store)))
    return place.store.folder(place.name) if place.store.has_folder(place.name) else None


def _store(store: str | None) -> Reading:
    return {} if store is None else {"store": store}


def _text(folder: Files, name: str) -> str:
    return read_file(folder, name).decode(errors="replace") if folder.stat(name) else ""


def _plain(value: Any) -> Any:
    """`value` as JSON gives it back."""
    return json.loads(json.dumps(value))
