"""Evidence from where it lies: reports; deltas and releases, by what they say themselves.

Everything that is read here may come from anybody. Sizes are bounded before anything is read, and what
is shown later is only text and numbers.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

from pipeline.analysis.page.facts import (
    Delta,
    Evidence,
    Model,
    Part,
    Plot,
    Release,
    Signature,
    Source,
    Tensor,
)
from pipeline.analysis.page.reading import release_of, take
from pipeline.analysis.page.values import as_text
from pipeline.checkpoints.files import SAFETENSORS, read_file
from pipeline.checkpoints.strict_json import is_deep, parse_json
from pipeline.deltas.delta import open_delta
from pipeline.deltas.manifest import Identity, Manifest, TensorRecord
from pipeline.deltas.signing import Verifier
from pipeline.errors import CorruptFile, NotACheckpoint, NotFound, UsageError
from pipeline.operations.outputs.provenance import PROVENANCE, Provenance
from pipeline.operations.outputs.signatures import find_signature
from pipeline.settings import Settings
from pipeline.storage.base import Files, Store
from pipeline.storage.locations import Location, Scheme, parse_delta, parse_output_model
from pipeline.storage.opening import open_parent
from pipeline.tensors.fingerprint import Digest, digest_bytes
from pipeline.units import MIB, format_bytes

MAX_REPORT_BYTES = 64 * MIB
MAX_PLOT_BYTES = 4 * MIB
_ANALYSIS = "analysis.json"
_PLOTS = "plots/"
_MAX_PLOTS = 40
# What a folder may have that tells of it; its other files are left alone.
_TELLING = (_ANALYSIS, "evaluation.json", "verdict.json", "report.json")
_CAPTIONS = {
    "modules": "Relative change by layer and module",
    "norms": "Norms by layer",
    "ranks": "Effective rank by layer and module",
    "sizes": "How large the changes are",
    "agreement": "How the deltas agree by layer",
    "cosines": "Cosine of each pair of deltas",
}
_KINDS = {".svg": "svg+xml", ".png": "png"}


def gather(evidence: Evidence, location: str, settings: Settings, verifier: Verifier | None) -> None:
    """Add what lies at `location` to `evidence`: a report, a delta, a release, a folder of analyze.

    Raises NotFound, CorruptFile, BadSignature, and UsageError for what is none of these.
    """
    where = locate(location)
    store, name = open_parent(where, settings)
    if where.path.endswith(SAFETENSORS):
        delta, digest = read_delta(location, store, name, settings, verifier)
        evidence.deltas.append(delta)
        evidence.sources.append(Source(str(where), "delta", digest))
    elif store.stat(name):
        if _take_report(evidence, store, name, str(where)) is None:
            raise UsageError(
                "is JSON, and no report that a page could show",
                where=str(where),
                hint="give what batch, evaluate, gate, analyze or --format json wrote",
            )
    else:
        _take_folder(evidence, store.folder(name), str(where), verifier)


def locate(location: str) -> Location:
    """Where a report, a delta or a release lies; what is not on this machine is a name in the store."""
    where = parse_output_model(location)
    is_name = where.scheme is Scheme.LOCAL and not location.startswith(("/", ".", "~", "file:"))
    return parse_delta(location) if is_name and not Path(location).exists() else where


def _take_report(evidence: Evidence, files: Files, name: str, where: str) -> str | None:
    """Add a report that is a file; returns its kind, None if it has none."""
    found = files.stat(name)
    if found is not None and found.nbytes > MAX_REPORT_BYTES:
        raise CorruptFile(f"{format_bytes(found.nbytes)} are too many for a report", where=where)
    data = read_file(files, name)
    kind = take(evidence, parse_report(data, where=where), where=where)
    if kind is not None:
        evidence.sources.append(Source(where, kind, str(digest_bytes(data))))
    return kind


def parse_report(data: bytes, *, where: str) -> object:
    """The value that a report is. Raises CorruptFile for what is not JSON, or deeper than any report."""
    try:
        value = parse_json(data, nonfinite=True)
    except ValueError as error:
        hint = "give what a command wrote with --format json, or a location of a delta or a release"
        raise CorruptFile("is no report: it can't be read as JSON", where=where, hint=hint) from error
    if is_deep(value):
        raise CorruptFile("is no report: it is nested too deeply", where=where)
    return value


def _take_folder(evidence: Evidence, folder: Store, where: str, verifier: Verifier | None) -> None:
    """Add what a folder says of itself."""
    kinds: list[str | None] = []
    if folder.stat(PROVENANCE):
        files = folder.published()
        if files is None:
            raise NotACheckpoint("is being published, or its publishing was interrupted", where=where)
        release, digest = read_release(files, where, verifier)
        nbytes = sum(file.nbytes for file in folder.list())
        evidence.releases.append(replace(release, nbytes=nbytes))
        evidence.sources.append(Source(where, "release", digest))
        kinds.append("release")
    for name in _TELLING:
        if folder.stat(name):
            kinds.append(_take_report(evidence, folder, name, f"{where.rstrip('/')}/{name}"))
    if folder.stat(_ANALYSIS):
        evidence.plots += _plots(folder)
    if not any(kinds):
        if next(iter(folder.list()), None) is None:
            raise NotFound("nothing is there", where=where)
        raise UsageError(
            "is a folder, and has nothing that a page could show",
            where=where,
            hint=f"a release has {PROVENANCE}, a folder of analyze {_ANALYSIS}",
        )


def _plots(folder: Store) -> list[Plot]:
    """The drawings of an analysis: of each the SVG, or else the PNG."""
    files = [file for file in folder.list(_PLOTS) if file.nbytes <= MAX_PLOT_BYTES]
    found: dict[str, str] = {}
    for file in files:
        stem, _, ending = file.name.removeprefix(_PLOTS).rpartition(".")
        if f".{ending}" in _KINDS and (ending == "svg" or stem not in found):
            found[stem] = file.name
    return [
        Plot(_caption(stem), _KINDS["." + name[-3:]], read_file(folder, name))
        for stem, name in list(found.items())[:_MAX_PLOTS]
    ]


def _caption(stem: str) -> str:
    """What the drawing called "2-norms" shows."""
    number, dash, kind = stem.rpartition("-")
    what = _CAPTIONS.get(kind)
    if what is None or (dash and not number.isdecimal()):
        return stem.replace("_", " ").replace("-", " ")
    return f"{what}, delta {number}" if dash else what


def read_delta(
    location: str, store: Store, name: str, settings: Settings, verifier: Verifier | None
) -> tuple[Delta, str]:
    """What a delta says of itself, from its headers, and its fingerprint."""
    with open_delta(location, settings=settings) as delta:
        signature = _signature(store, name, delta.manifest_digest, verifier, delta.location)
        facts = delta_facts(delta.manifest, delta.location, delta.nbytes, signature)
        return facts, str(delta.manifest.fingerprint)


def read_release(files: Files, where: str, verifier: Verifier | None) -> tuple[Release, str]:
    """What a release says of itself in its provenance, and that file's digest."""
    data = read_file(files, PROVENANCE)
    digest = digest_bytes(data)
    said = Provenance.parse(data, where=f"{where}/{PROVENANCE}")
    signature = _signature(files, PROVENANCE, digest, verifier, where)
    return release_of(said.origin, location=where, signature=signature), str(digest)


def _signature(
    files: Files, name: str, digest: Digest, verifier: Verifier | None, where: str
) -> Signature | None:
    """The signature beside a thing; checked, if there is a key. Raises BadSignature."""
    found = find_signature(files, name)
    if found is None:
        return None
    if verifier is not None:
        return Signature(verifier.verify(found, digest, where=where), True)
    try:
        key = json.loads(found)["verificationMaterial"]["publicKey"]["hint"]
    except (ValueError, KeyError, TypeError, RecursionError):
        key = None
    return Signature(as_text(key), False)


def delta_facts(
    manifest: Manifest, location: str, nbytes: int | None, signature: Signature | None
) -> Delta:
    """A delta as its manifest describes it."""
    records = manifest.tensors
    size, base = manifest.delta_l2, manifest.base_l2
    return Delta(
        model=Model(location, str(manifest.fingerprint)),
        base=model_of(manifest.base),
        post=model_of(manifest.post),
        parts=[
            Part(
                each.scale,
                Model(each.location, str(each.fingerprint)),
                model_of(each.base),
                model_of(each.post),
            )
            for each in manifest.ancestors
        ],
        tensors=[_tensor(record) for record in records],
        count=len(records),
        elements=sum(math.prod(record.shape) for record in records),
        changed=sum(record.changed for record in records),
        remainders=sum(record.remainders for record in records),
        exceptions=sum(record.exceptions for record in records),
        relative=size / base if base and size is not None else None,
        nbytes=nbytes,
        codec=manifest.codec,
        carried=[record.name for record in records if record.carried and record.changed],
        signature=signature,
        tool=manifest.tool,
    )


def model_of(identity: Identity | None) -> Model | None:
    """A checkpoint as a manifest names it."""
    if identity is None:
        return None
    return Model(identity.location, str(identity.fingerprint), identity.revision)


def _tensor(record: TensorRecord) -> Tensor:
    return Tensor(
        name=record.name,
        dtype=record.stored.name,
        shape=record.shape,
        changed=record.changed,
        delta_l2=record.delta_l2,
        base_l2=record.base_l2,
        delta_max=record.delta_max,
        remainders=record.remainders,
        exceptions=record.exceptions,
    )
