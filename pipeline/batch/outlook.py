"""What is to be done with a step, and why: its output compared with what it would write now."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipeline.batch.evidence import evidence_key
from pipeline.batch.known import Known
from pipeline.batch.specification import EVIDENCE, SIDES, Specification
from pipeline.checkpoints.adapters.post import open_model
from pipeline.checkpoints.checkpoint import open_files
from pipeline.checkpoints.files import read_file
from pipeline.deltas.delta import open_delta
from pipeline.errors import IsAnAdapter
from pipeline.operations.arguments import names_a_delta
from pipeline.operations.evaluating.models import base_of
from pipeline.operations.evidence_freshness import (
    evaluate_freshness,
    gate_freshness,
    publish_freshness,
)
from pipeline.operations.freshness import (
    Freshness,
    apply_freshness,
    combine_freshness,
    compute_freshness,
)
from pipeline.operations.outputs.provenance import PROVENANCE
from pipeline.operations.showing_freshness import (
    analyze_freshness,
    page_freshness,
    sweep_freshness,
)
from pipeline.quality.report import ROLES
from pipeline.settings import Settings
from pipeline.storage.locations import parse_model
from pipeline.tensors.fingerprint import Digest, digest_bytes

# What says how a step is done, not what comes of it.
_MANNER = frozenset(
    (
        *("store", "device", "hub_cache", "digest_cache", "tier", "overwrite", "allow_unrelated"),
        *("push_to_hub", "private", "revision"),
    )
)


def examine(spec: Specification, known: Known) -> Freshness:
    """How the output of `spec` stands to what it would write now. Raises the errors of its inputs.

    A check has no output: it is fresh if it was passed by the same things before.
    """
    arguments = dict(spec.arguments)
    match spec.run:
        case "compute":
            return compute_freshness(**arguments, fingerprint_of=known.fingerprint)
        case "apply":
            arguments["deltas"] = spec.terms
            return apply_freshness(**arguments, fingerprint_of=known.fingerprint)
        case "combine":
            arguments["deltas"] = spec.terms
            return combine_freshness(**arguments)
        case "evaluate":
            return evaluate_freshness(**arguments, fingerprint_of=known.fingerprint)
        case "gate":
            return gate_freshness(**arguments)
        case "publish":
            return publish_freshness(**arguments)
        case "analyze":
            arguments["deltas"] = [name for name, _ in spec.terms]
            return analyze_freshness(**arguments)
        case "page":
            return page_freshness(**arguments)
        case "sweep":
            arguments["deltas"] = spec.terms
            return sweep_freshness(**arguments, fingerprint_of=known.fingerprint)
    if known.passed(check_key(spec)):
        return Freshness("fresh")
    return Freshness("missing")


def models_of(spec: Specification) -> Iterator[tuple[str, str | None]]:
    """The locations of the checkpoints that `spec` reads whole, with what an adapter there is of."""
    named = spec.arguments
    if spec.run in ("evaluate", "sweep"):
        roles = {role: named[role] for role in ROLES if role in named}
        yield from ((text, base_of(role, roles)) for role, text in roles.items())
    else:
        yield from ((named[side], _base_of_side(side, named)) for side in SIDES if side in named)
    for term in named.get("deltas", ()):
        yield from ((term[side], _base_of_side(side, term)) for side in SIDES if side in term)


def _base_of_side(side: str, sides: Mapping[str, Any]) -> str | None:
    return sides.get("base") if side == "post" else None


def identities(spec: Specification, settings: Settings) -> dict[str, Digest]:
    """The identity of each checkpoint that `spec` reads whole, by its location."""
    settings = settings_for(spec, settings)
    return {text: identity_of(text, settings, base) for text, base in models_of(spec)}


def settings_for(spec: Specification, settings: Settings) -> Settings:
    """`settings` as the step reads models by them."""
    return replace(settings, dequantize=bool(spec.arguments.get("dequantize")))


def fingerprints_of_inputs(
    spec: Specification, report: Mapping[str, Any]
) -> Iterator[tuple[str, Digest]]:
    """The fingerprint of each checkpoint that `spec` has read whole, by location, as the report says."""
    for role in dict.fromkeys((*SIDES, *ROLES)):
        text, found = spec.arguments.get(role), report.get(f"{role}_fingerprint")
        if text is not None and found:
            yield text, Digest.parse(found)
    terms = spec.arguments.get("deltas", ())
    for term, made_of in zip(terms, report.get("addend_fingerprints") or (), strict=False):
        for side in SIDES:
            if side in term:
                yield term[side], Digest.parse(made_of[side])


def identity_of(model: str, settings: Settings, base: str | None = None) -> Digest:
    """The identity of the checkpoint at `model`, or of the adapter of `base` there, from its headers."""
    with open_model(model, base=base, settings=settings, headers_only=True) as checkpoint:
        return checkpoint.identity


def check_key(spec: Specification) -> Digest:
    """What is another if anything is that a verify step looks at."""
    settings = settings_for(spec, Settings.load(store=spec.arguments.get("store")))
    location = spec.arguments["location"]
    parts = [json.dumps(dict(spec.arguments), sort_keys=True)]
    if names_a_delta(location):
        with open_delta(location, settings=settings) as delta:
            reader = delta.reader
            parts.append(f"{reader.name} {reader.nbytes} {reader.version}")
    else:
        with suppress(IsAnAdapter):  # which its provenance says all of
            parts.append(str(identity_of(location, settings)))
        parts.append(_provenance_digest(location, settings))
    parts += [f"{text} {identity}" for text, identity in identities(spec, settings).items()]
    if key := spec.arguments.get("key"):
        with suppress(OSError):  # verify will say what is wrong with it
            parts.append(str(digest_bytes(Path(key).read_bytes())))
    return digest_bytes("\0".join(parts).encode())


def _provenance_digest(location: str, settings: Settings) -> str:
    folder = open_files(parse_model(location), settings)
    if folder.stat(PROVENANCE) is None:
        return ""
    return str(digest_bytes(read_file(folder, PROVENANCE)))


def step_key(spec: Specification, report: Mapping[str, Any], settings: Settings) -> str:
    """The digest of what a step does and of the fingerprints of what it does it to.

    Locations of inputs and outputs are not in it: it is the same wherever they lie.
    """
    if spec.run in EVIDENCE:
        content: dict[str, Any] = {"run": spec.run, "of": evidence_key(spec.run, spec.arguments, report)}
        return str(digest_bytes(json.dumps(content, sort_keys=True).encode()))
    said = {name: value for name, value in spec.arguments.items() if name not in _MANNER}
    of: list[Any] = [report.get(f"{side}_fingerprint") for side in SIDES]
    made_of = report.get("addend_fingerprints")
    for number, term in enumerate(said.pop("deltas", ())):
        if made_of:
            of.append([made_of[number], term["scale"]])
            continue
        with open_delta(term["delta"], settings=settings) as delta:
            of.append([{"delta": str(delta.manifest.fingerprint)}, term["scale"]])
    for name in (*SIDES, "output", "location"):
        said.pop(name, None)
    content = {"run": spec.run, "options": said, "of": of}
    return str(digest_bytes(json.dumps(content, sort_keys=True).encode()))
