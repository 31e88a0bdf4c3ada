"""Whether an evaluation, a verdict or a published release is what a run would write now."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from pipeline.checkpoints.adapters.post import open_model
from pipeline.checkpoints.files import read_file
from pipeline.deltas.delta import open_delta
from pipeline.errors import CorruptFile, PipelineError
from pipeline.operations.evaluating.models import base_of
from pipeline.operations.freshness import FingerprintOf, Freshness
from pipeline.operations.gate import Kept, gate
from pipeline.operations.outputs.provenance import PROVENANCE
from pipeline.operations.publish import check_gates, plain
from pipeline.operations.setup import Reading, Setup
from pipeline.operations.storing.shelf import Item, find_item
from pipeline.quality.report import ROLES, Evaluation, Role
from pipeline.settings import Settings
from pipeline.storage.base import Store
from pipeline.storage.locations import parse_delta
from pipeline.storage.opening import open_parent


def evaluate_freshness(
    model: str, output: str, *, fingerprint_of: FingerprintOf, **options: Any
) -> Freshness:
    """How the report at `output` stands to what `evaluate` of the rest would write.

    Raises what `evaluate` does before it measures.
    """
    settings = Setup.of(reading_of(options)).settings
    there = Kept.at(output, settings)
    if not there.is_taken:
        return Freshness("missing")
    from pipeline.operations.evaluate import evaluate

    planned = evaluate(model, output=output, **{**options, "overwrite": True}, dry_run=True)
    try:
        said = Evaluation.from_json(there.read().decode(errors="replace"), where=there.shown)
    except CorruptFile:
        return Freshness("stale", "is no evaluation that can be read")
    problems = []
    if [*said.data] != [*planned.data]:
        problems.append("is of other data")
    if said.settings != json.loads(planned.to_json())["settings"]:
        problems.append("is of other settings or versions")
    fingerprints = {role: scores.fingerprint for role, scores in said.scores.items()}
    found = measured_freshness(
        problems, {"model": model, **options}, fingerprints, settings, fingerprint_of
    )
    return replace(found, fingerprint=said.model.fingerprint) if found.state == "fresh" else found


def measured_freshness(
    problems: Sequence[str],
    options: Mapping[str, Any],
    said: Mapping[Role, str],
    settings: Settings,
    fingerprint_of: FingerprintOf,
) -> Freshness:
    """What follows from problems that are known, and from the models that were measured.

    options: of the step, with the location of each role's model. said: the fingerprints that the result
    says these had, by role. Raises what `open_model` does.
    """
    found, unread = list(problems), []
    named: dict[Role, str] = {role: options[role] for role in ROLES if options.get(role)}
    if {*said} != {*named}:
        found.append("is held against other models")
    for role in (role for role in named if role in said):
        base = base_of(role, named)
        with open_model(named[role], base=base, settings=settings, headers_only=True) as checkpoint:
            now = fingerprint_of(checkpoint)
            if now is None:
                unread.append(checkpoint.location)
            elif str(now) != said[role]:
                found.append(f"is of another {role}")
    if found:
        return Freshness("stale", ", and ".join(found))
    return Freshness("unknown", unread=unread) if unread else Freshness("fresh")


def reading_of(options: Mapping[str, Any]) -> Reading:
    """Those of a step's options that say how models are read, and where names in the store lie."""
    return cast(Reading, {name: options[name] for name in Reading.__annotations__ if name in options})


def gate_freshness(report: str, *, require: Sequence[str], output: str, **options: Any) -> Freshness:
    """How the verdict at `output` stands to what `gate` would say now.

    A refusal is never fresh: it is to be said again. Raises what `gate` does.
    """
    verdict = gate(report, require=require, output=output, overwrite=True, dry_run=True)
    there = Kept.at(output, Settings.load())
    if not there.is_taken:
        return Freshness("missing")
    if not there.holds(verdict):
        return Freshness("stale", "is of another report or of other conditions")
    return (
        Freshness("fresh", fingerprint=verdict.fingerprint) if verdict.passed else Freshness("missing")
    )


def publish_freshness(
    source: str,
    output: str,
    *,
    gates: Sequence[str],
    require: Sequence[str] = (),
    store: str | None = None,
    **options: Any,
) -> Freshness:
    """How what lies at `output` stands to what `publish` would put there. Raises what it raises."""
    settings = Settings.load(store=store)
    kind, fingerprint = check_gates(source, gates, require, settings)
    (origin, name), (target, new_name) = (
        open_parent(parse_delta(plain(text, kind)), settings) for text in (source, output)
    )
    if kind == "delta":
        if target.stat(new_name) is None:
            return Freshness("missing")
        is_same = _same_delta(source, output, settings)
    else:
        if not target.has_folder(new_name):
            return Freshness("missing")
        folder = target.folder(new_name)
        if folder.published() is None:
            return Freshness("stale", "is being published, or was", is_underway=True)
        is_same = _same_folder(origin.folder(name), folder)
    if not is_same or _files(find_item(origin, name)) != _files(find_item(target, new_name)):
        return Freshness("stale", "is another release")
    return Freshness("fresh", fingerprint=fingerprint)


def _same_delta(source: str, output: str, settings: Settings) -> bool:
    """Whether two deltas have one manifest, which has the digests of all that is in them."""
    try:
        with (
            open_delta(source, settings=settings) as wanted,
            open_delta(output, settings=settings) as found,
        ):
            return wanted.manifest_digest == found.manifest_digest
    except PipelineError:
        return False


def _same_folder(wanted: Store, found: Store) -> bool:
    """Whether two models have one provenance, which has the digests of all that is in them."""
    if found.stat(PROVENANCE) is None:
        return False
    return read_file(wanted, PROVENANCE) == read_file(found, PROVENANCE)


def _files(item: Item) -> dict[str, int]:
    """The sizes of an item's files, under names that do not depend on its own."""
    return {file.name.removeprefix(item.name): file.nbytes for file in item.files}
