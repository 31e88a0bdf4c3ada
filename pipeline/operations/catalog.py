"""catalog: all that lies in a store as one web page, from headers alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Unpack

from pipeline.analysis.page.facts import Evidence, Model, Verdict
from pipeline.analysis.page.reading import release_of, take
from pipeline.analysis.page.shelf import Entry, build_catalog
from pipeline.checkpoints.files import SAFETENSORS, read_file
from pipeline.deltas.signing import Verifier
from pipeline.errors import AccessError, BadSignature, PipelineError
from pipeline.operations.gathering import model_of, parse_report
from pipeline.operations.outputs.folder import write_folder
from pipeline.operations.outputs.places import Place
from pipeline.operations.outputs.provenance import PROVENANCE, Provenance
from pipeline.operations.outputs.signatures import find_signature, load_verifier
from pipeline.operations.page import INDEX
from pipeline.operations.setup import Setup, Writing
from pipeline.operations.storing.listing import read_manifest, what_is_missing
from pipeline.operations.storing.shelf import ROOT, Item, open_shelf, sort_out
from pipeline.storage.base import Store
from pipeline.tensors.fingerprint import Digest, digest_bytes
from pipeline.units import MIB

_AT_ONCE = 16
_MAX_VERDICT_BYTES = 4 * MIB
_JSON = ".json"

_Look = Callable[[Store, Item, Verifier | None], Entry]


@dataclass(frozen=True, slots=True)
class CatalogReport:
    """What catalog did, or with `dry_run` would do. problems: of how many something is wrong."""

    output: str
    store: str
    prefix: str
    dry_run: bool
    deltas: int
    releases: int
    verdicts: int
    others: int
    problems: int
    written_bytes: int


def catalog(
    output: str, place: str | None = None, *, key: str | None = None, **options: Unpack[Writing]
) -> CatalogReport:
    """Write the folder `output` with a page of what lies in the store under the prefix `place`.

    Or in the folder at that location. Of deltas the header and the manifest are read, of releases the
    provenance, of JSON files of a few MiB all, for they may be verdicts of gates; of weights nothing.
    What is damaged has a line that says so. key: public key or certificate (PEM) that signatures are
    held against; whatever is signed otherwise has a line that says so, too. options: see `Writing`.
    Raises NotFound, AccessError, OutputExists and others of `pipeline.errors`.
    """
    verifier = load_verifier(key, required=False)
    setup = Setup.of(options)
    target = Place.for_model(output, setup).refuse_taken(is_model=True)
    shelf, prefix = open_shelf(place, setup.settings)
    items = sort_out(shelf.list(prefix))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        found = list(pool.map(lambda item: _look(shelf, item, verifier), items))
    entries = [each for each in found if isinstance(each, Entry)]
    verdicts = [verdict for each in found if isinstance(each, list) for verdict in each]
    content = build_catalog(shelf.url, prefix, entries, verdicts)
    if not setup.dry_run:
        write_folder(target, {INDEX: content})
    kinds = [entry.kind for entry in entries]
    return CatalogReport(
        output=target.location,
        store=shelf.url,
        prefix=prefix,
        dry_run=setup.dry_run,
        deltas=kinds.count("delta"),
        releases=kinds.count("release"),
        verdicts=len(verdicts),
        others=len(entries) - kinds.count("delta") - kinds.count("release"),
        problems=sum(entry.problem is not None for entry in entries),
        written_bytes=len(content),
    )


def _look(shelf: Store, item: Item, verifier: Verifier | None) -> Entry | list[Verdict]:
    """What an item is: a line of the catalogue, or verdicts that belong to other lines."""
    if item.is_model:
        return _guarded(shelf, item, verifier, _model)
    if item.name.endswith(SAFETENSORS):
        return _guarded(shelf, item, verifier, _delta)
    if item.name.endswith(_JSON) and item.nbytes <= _MAX_VERDICT_BYTES:
        verdicts = _verdicts(shelf, item.name)
        if verdicts:
            return verdicts
    return _entry(item, "other")


def _guarded(shelf: Store, item: Item, verifier: Verifier | None, look: _Look) -> Entry:
    """What `look` finds; a line that says why, if that can't be read. Raises AccessError."""
    try:
        return look(shelf, item, verifier)
    except AccessError:
        raise
    except BadSignature as error:
        return _entry(item, "model" if item.is_model else "other", problem=error.what)
    except PipelineError as error:
        return _entry(item, "model" if item.is_model else "other", problem=f"damaged: {error.what}")


def _delta(shelf: Store, item: Item, verifier: Verifier | None) -> Entry:
    found = read_manifest(shelf, item.name)
    if found is None:
        return _entry(item, "other")
    manifest, digest = found
    return _entry(
        item,
        "delta",
        signed_by=_signer(shelf, item, item.name, digest, verifier),
        fingerprint=str(manifest.fingerprint),
        base=model_of(manifest.base),
        post=model_of(manifest.post),
        parts=len(manifest.ancestors),
    )


def _model(shelf: Store, item: Item, verifier: Verifier | None) -> Entry:
    problem = what_is_missing(item)
    if problem or not item.has(PROVENANCE):
        return _entry(item, "adapter" if item.is_adapter else "model", problem=problem)
    name = PROVENANCE if item.name == ROOT else f"{item.name}/{PROVENANCE}"
    data = read_file(shelf, name)
    said = Provenance.parse(data, where=f"{shelf.url}/{name}")
    signed_by = _signer(shelf, item, name, digest_bytes(data), verifier)
    if item.is_adapter:
        return _entry(item, "adapter", signed_by=signed_by)
    release = release_of(said.origin, location=item.name, signature=None)
    return _entry(
        item,
        "release",
        signed_by=signed_by,
        fingerprint=str(said.fingerprint),
        base=release.base,
        deltas=[part.delta for part in release.parts],
        case=release.case,
    )


def _signer(
    shelf: Store, item: Item, name: str, digest: Digest, verifier: Verifier | None
) -> str | None:
    """The key that signed what is called `name`, if there is one to hold it against.

    Raises BadSignature if it was another, or signed another content.
    """
    if verifier is None or not item.is_signed:
        return None
    return verifier.verify(find_signature(shelf, name), digest, where=f"{shelf.url}/{name}")


def _verdicts(shelf: Store, name: str) -> list[Verdict]:
    """The verdict that a JSON file is, if it is one, or those in the report of a batch."""
    found = Evidence()
    try:
        take(found, parse_report(read_file(shelf, name), where=name), where=name)
    except AccessError:
        raise
    except PipelineError:
        return []  # some other file, of somebody else
    return found.verdicts


def _entry(
    item: Item,
    kind: str,
    *,
    signed_by: str | None = None,
    fingerprint: str | None = None,
    base: Model | None = None,
    post: Model | None = None,
    parts: int = 0,
    deltas: Sequence[Model] = (),
    case: str | None = None,
    problem: str | None = None,
) -> Entry:
    return Entry(
        name=item.name,
        kind=kind,
        nbytes=item.nbytes,
        modified=item.modified.strftime("%Y-%m-%d %H:%M"),
        is_signed=item.is_signed,
        signed_by=signed_by,
        fingerprint=fingerprint,
        base=base,
        post=post,
        parts=parts,
        deltas=deltas,
        case=case,
        problem=problem,
    )
