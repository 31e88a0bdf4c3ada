"""list: the deltas and models of a store, with what their headers say of them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

from pipeline.checkpoints.files import SAFETENSORS
from pipeline.checkpoints.header import read_header
from pipeline.deltas.delta import read_entry
from pipeline.deltas.format import MANIFEST, MANIFEST_KEY, VERSION_KEY
from pipeline.deltas.manifest import Identity, Manifest
from pipeline.errors import AccessError, CorruptFile, PipelineError
from pipeline.operations.storing.shelf import Item, open_shelf, sort_out
from pipeline.settings import Settings
from pipeline.storage.base import Store
from pipeline.tensors.fingerprint import Digest, digest_bytes

Kind = Literal["delta", "model", "adapter", "other"]
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class Listed:
    """One delta, model folder or other file of a store.

    name: in the store. nbytes, files: signatures and all that is in a folder included. modified: UTC, in
    ISO 8601. base, post: of a delta, as its manifest names them. signed: a signature lies beside it.
    problem: why it can't be used, if so.
    """

    name: str
    kind: Kind
    nbytes: int
    files: int
    modified: str
    base: str | None = None
    post: str | None = None
    signed: bool = False
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What lies in a store below a prefix."""

    store: str
    prefix: str
    items: Sequence[Listed]


def list_store(place: str | None = None, *, store: str | None = None) -> Listing:
    """What lies in the store under names that begin with `place`, or in the folder at that location.

    Of a delta the header and the manifest are read, in three requests or four; of anything else nothing.
    One that is damaged is listed as such. Raises NotFound and AccessError.
    """
    shelf, prefix = open_shelf(place, Settings.load(store=store))
    items = sort_out(shelf.list(prefix))
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        listed = list(pool.map(lambda item: _describe(shelf, item), items))
    return Listing(shelf.url, prefix, listed)


def _describe(store: Store, item: Item) -> Listed:
    plain = Listed(
        name=item.name,
        kind="model" if item.is_model else "other",
        nbytes=item.nbytes,
        files=len(item.files),
        modified=item.modified.strftime("%Y-%m-%dT%H:%M:%SZ"),
        signed=item.is_signed,
    )
    if item.is_model:
        kind: Kind = "adapter" if item.is_adapter else "model"
        return replace(plain, kind=kind, problem=what_is_missing(item))
    if not item.name.endswith(SAFETENSORS):
        return plain
    try:
        found = read_manifest(store, item.name)
    except AccessError:
        raise
    except PipelineError as error:
        return replace(plain, problem=f"damaged: {error.what}")
    if found is None:
        return plain
    manifest, _ = found
    return replace(plain, kind="delta", base=_location(manifest.base), post=_location(manifest.post))


def what_is_missing(item: Item) -> str | None:
    """What keeps a folder from being read as a model, or as an adapter."""
    if not item.is_whole:
        return "is being published or deleted, or was when that was stopped"
    if item.is_ambiguous:
        return "holds a model and an adapter"
    return None if item.has_weights else "has no weights"


def read_manifest(store: Store, name: str) -> tuple[Manifest, Digest] | None:
    """The manifest of the delta called `name`, and its digest; None if it is another safetensors file.

    Raises CorruptFile, and what the store raises.
    """
    reader = store.open(name)
    try:
        header = read_header(reader)
        if VERSION_KEY not in header.metadata:
            return None
        entry = next((entry for entry in header.entries if entry.name == MANIFEST), None)
        if entry is None:
            raise CorruptFile("lacks its manifest", where=reader.name)
        data = read_entry(reader, entry)
        digest = digest_bytes(data)
        if str(digest) != header.metadata.get(MANIFEST_KEY):
            raise CorruptFile("its manifest does not match its digest", where=reader.name)
        return Manifest.from_json(data, where=reader.name), digest
    finally:
        reader.close()


def _location(identity: Identity | None) -> str | None:
    return identity.location if identity else None
