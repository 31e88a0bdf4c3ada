"""What lies in a store, as people think of it: files with their signatures, and model folders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from pipeline.checkpoints.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEXES, SINGLE_FILES
from pipeline.checkpoints.output import CONFIG
from pipeline.deltas.signing import SUFFIX
from pipeline.engine.journal import SUFFIX as JOURNAL
from pipeline.errors import NotFound, UsageError
from pipeline.operations.outputs.provenance import PROVENANCE
from pipeline.settings import Settings
from pipeline.storage.azure.claim import CLAIM
from pipeline.storage.base import Listed, Store
from pipeline.storage.locations import Location, Scheme, parse_delta, parse_store
from pipeline.storage.names import safe_prefix
from pipeline.storage.opening import open_folder, open_parent

ROOT = "."
_WEIGHTS = (*INDEXES, *SINGLE_FILES)


@dataclass(frozen=True, slots=True)
class Item:
    """A model folder with all its files, or one file, its signature the second if it has one.

    An adapter's folder is a model's, too.
    """

    name: str
    is_model: bool
    files: tuple[Listed, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.nbytes for file in self.files)

    @property
    def modified(self) -> datetime:
        """When the newest file was written."""
        return max(file.modified for file in self.files)

    @property
    def is_signed(self) -> bool:
        """Whether a signature lies beside it; `verify` says whether it holds."""
        signatures = [file.name for file in self.files if file.name.endswith(SUFFIX)]
        return any(not self.is_model or name.endswith(PROVENANCE + SUFFIX) for name in signatures)

    @property
    def is_whole(self) -> bool:
        """Whether nobody is publishing the folder, or was when he was stopped."""
        return not any(_split(file.name)[1] == CLAIM for file in self.files)

    def has(self, *names: str) -> bool:
        """Whether a file of any of these names lies directly in the folder."""
        start = "" if self.name == ROOT else f"{self.name}/"
        found = {file.name for file in self.files}
        return any(start + name in found for name in names)

    @property
    def has_weights(self) -> bool:
        """Whether the folder has what readers of models look for first."""
        return self.has(*_WEIGHTS) or self._has_adapter

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds an adapter, and no weights of a whole model."""
        return self.is_model and self._has_adapter and not self.has(*_WEIGHTS)

    @property
    def is_ambiguous(self) -> bool:
        """Whether the folder holds an adapter beside a whole model: reading it is refused."""
        return self.is_model and self._has_adapter and self.has(*_WEIGHTS)

    @property
    def _has_adapter(self) -> bool:
        return self.has(ADAPTER_CONFIG) and self.has(*ADAPTER_WEIGHTS)


def open_shelf(place: str | None, settings: Settings) -> tuple[Store, str]:
    """The store that `place` is a prefix in, or that is at `place`; and the prefix.

    Raises NotFound if a folder is named that is not there.
    """
    if place is None or place == "":
        return open_folder(parse_store(settings.store), settings), ""
    if place.endswith("/") and parse_delta(place + "x").scheme is Scheme.STORE:
        return open_folder(parse_store(settings.store), settings), safe_prefix(place)
    location = parse_delta(place)
    if location.scheme is Scheme.STORE:
        return open_folder(parse_store(settings.store), settings), location.path
    if is_root(location):
        return open_folder(location, settings), ""
    parent, name = open_parent(location, settings)
    if parent.stat(name):
        return parent, name
    folder = open_folder(location, settings)
    if next(iter(folder.list()), None) is None:
        raise NotFound("nothing is there", where=str(location))
    return folder, ""


def is_root(location: Location) -> bool:
    """Whether `location` is a whole container or file system, which lies in no other folder."""
    return location.path in ("", "/")


def sort_out(files: Iterable[Listed]) -> list[Item]:
    """The items that `files` make, by name. A folder in a model folder is a part of it."""
    found = {file.name: file for file in files}
    models = _model_folders(found)
    items: dict[str, tuple[bool, list[Listed]]] = {}
    for name, file in found.items():
        model = next((folder for folder in _folders(name) if folder in models), None)
        if model is not None:
            items.setdefault(model or ROOT, (True, []))[1].append(file)
        elif not (name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in found):
            signature = found.get(name + SUFFIX)
            items[name] = (False, [file, signature] if signature else [file])
    return [
        Item(name, is_model, tuple(files))
        for name, (is_model, files) in sorted(items.items())
        if is_model or not name.endswith(JOURNAL)
    ]


def find_item(store: Store, name: str) -> Item:
    """The item called `name`. Raises NotFound; UsageError for a folder that is no model."""
    if store.stat(name):
        files = {file.name: file for file in store.list(name)}
        wanted = [files[each] for each in (name, name + SUFFIX) if each in files]
        return Item(name, False, tuple(wanted))
    files = {file.name: file for file in store.list(f"{name}/")}
    if not files:
        raise NotFound("nothing is there", where=f"{store.url}/{name}", hint="see `cli.py list`")
    if name not in _model_folders(files):
        raise UsageError(
            f"is a folder of {len(files)} files, and no model",
            where=f"{store.url}/{name}",
            hint=f"name what is in it; `cli.py list {name}/` shows it",
        )
    return Item(name, True, tuple(files.values()))


def _model_folders(names: Iterable[str]) -> set[str]:
    """The folders that hold a model, or are to hold one.

    A delta may be called model.safetensors: what makes a model is a config or a provenance beside it.
    """
    inside: dict[str, set[str]] = {}
    for name in names:
        folder, file = _split(name)
        inside.setdefault(folder, set()).add(file)
    return {
        folder
        for folder, files in inside.items()
        if {PROVENANCE, CLAIM} & files
        or (CONFIG in files and files.intersection(_WEIGHTS))
        or (ADAPTER_CONFIG in files and files.intersection(ADAPTER_WEIGHTS))
    }


def _folders(name: str) -> Sequence[str]:
    """The folders that a file lies in, the outermost first."""
    parts = name.split("/")[:-1]
    return ["/".join(parts[:count]) for count in range(len(parts) + 1)]


def _split(name: str) -> tuple[str, str]:
    folder, _, file = name.rpartition("/")
    return folder, file
