"""A model's weights, config and companions, wherever they lie, tensor by tensor.

Opening a checkpoint reads headers only. Weights may be one safetensors file or several with an index,
or PyTorch pickles, single or sharded; a folder, a bare file, a container's folder or a Hub repository.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.derived import DerivedReader
from pipeline.checkpoints.files import (
    GGUF,
    PICKLES,
    SAFETENSORS,
    TOKENIZER,
    Weights,
    find_companions,
    find_weights,
    read_all,
    read_json,
)
from pipeline.checkpoints.float8 import DERIVED, dequantise
from pipeline.checkpoints.header import Entry, read_header
from pipeline.checkpoints.policy import vocab_size
from pipeline.checkpoints.quantisation import refuse_quantised
from pipeline.checkpoints.quantised_config import config_without_codes, is_fp8, stated_quantisations
from pipeline.engine.plan import Input
from pipeline.errors import CorruptFile, NotACheckpoint, NotFound
from pipeline.settings import Settings
from pipeline.storage.base import Files, Reader
from pipeline.storage.locations import Location, Scheme, parse_model
from pipeline.storage.opening import open_folder, open_parent
from pipeline.tensors.fingerprint import Digest, digest_bytes
from pipeline.tensors.float8 import CODES

if TYPE_CHECKING:
    from pipeline.storage.hub.models import HubRepo


@dataclass(frozen=True, slots=True)
class Source:
    """One tensor: what it is, and which of the checkpoint's files has its bytes."""

    entry: Entry
    file: int


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint.

    location: where it is, safe to show. revision: the Hub commit, if it is from the Hub.
    tensors: by name, in the order of their files and offsets. config: None for bare weights.
    shared: names that the files leave out, with the tensor whose bytes each has. derived: from what its
    values were made, None if they are as they are stored.
    """

    location: str
    revision: str | None
    tensors: Mapping[str, Source]
    readers: Sequence[Reader]
    config: Mapping[str, Any] | None
    companions: Mapping[str, Reader]
    shared: Mapping[str, str] = field(default_factory=dict)
    derived: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(source.entry.nbytes for source in self.tensors.values())

    @property
    def vocab_size(self) -> int | None:
        """Rows of the embedding, as the config says."""
        return vocab_size(self.config)

    @property
    def has_remote_weights(self) -> bool:
        """Whether reading any of its weights takes a round trip."""
        return any(reader.is_remote for reader in self.readers)

    @property
    def identity(self) -> Digest:
        """What is another if any weight is: made of the commit, or of all files' names and versions."""
        parts = [f"{self.location}@{self.revision}"]
        if self.revision is None:
            parts = [f"{reader.name} {reader.nbytes} {reader.version}" for reader in self.readers]
        parts += [each.version for each in self.readers if isinstance(each, DerivedReader)]
        return digest_bytes("\0".join(parts).encode())

    def input(self, name: str, first_reader: int = 0) -> Input:
        """The tensor called `name` as an input, the readers being numbered from `first_reader`."""
        source = self.tensors[name]
        entry = source.entry
        return Input(first_reader + source.file, entry.offset, entry.dtype.itemsize, entry.count)

    def read_companions(self) -> dict[str, bytes]:
        """The content of all companion files."""
        return {name: read_all(reader) for name, reader in self.companions.items()}

    def read_tokenizer(self) -> bytes | None:
        """The content of tokenizer.json, if there is one."""
        reader = self.companions.get(TOKENIZER)
        return read_all(reader) if reader else None

    def close(self) -> None:
        """Close all files."""
        for reader in (*self.readers, *self.companions.values()):
            reader.close()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_checkpoint(
    location: str, *, settings: Settings | None = None, headers_only: bool = False
) -> Checkpoint:
    """Open the checkpoint at `location`, reading headers only.

    With `headers_only` nothing is downloaded from the Hub; otherwise its weights are brought into the
    client's cache first, if the settings and the cache's disk let them; else they are read by range.
    If the settings say so, 8-bit floats are dequantised; GGUF always is.
    Raises NotACheckpoint, NotFound, CorruptFile, QuantisedCheckpoint, AccessError and UsageError.
    """
    settings = settings or Settings.load()
    found = _open_stored(parse_model(location), settings, headers_only=headers_only)
    if settings.dequantize:
        found = _dequantised(found)
    refuse_quantised(found.location, found.config, [each.entry for each in found.tensors.values()])
    return found


def _open_stored(where: Location, settings: Settings, *, headers_only: bool) -> Checkpoint:
    """The checkpoint as it is stored, which may be in codes."""
    if where.scheme is Scheme.HUB:
        return _open_hub(where, settings, headers_only=headers_only)
    if where.path.endswith((SAFETENSORS, *PICKLES)):
        store, name = open_parent(where, settings)
        return _assemble(str(where), Weights((name,)), [store.open(name)], None, {})
    if where.path.endswith(GGUF):
        parent, _, name = where.path.rpartition("/")
        place = replace(where, path=parent or ("/" if where.path.startswith("/") else ""))
        return _open_folder(open_files(place, settings), Weights((name,)), str(where))
    folder = open_files(where, settings)
    return _open_folder(folder, find_weights(folder), str(where))


def open_files(where: Location, settings: Settings) -> Files:
    """The folder or the repository at `where`, as one run published it. Raises NotACheckpoint."""
    if where.scheme is Scheme.HUB:
        return _open_repo(where, settings)
    folder = open_folder(where, settings).published()
    if folder is None:
        raise NotACheckpoint(
            "is being published, or its publishing was interrupted",
            where=str(where),
            hint="wait for it, or run the apply again with --overwrite",
        )
    return folder


def _open_repo(where: Location, settings: Settings) -> HubRepo:
    from pipeline.storage.hub.models import HubRepo

    return HubRepo(where.path, where.revision, token=settings.hub_token)


def _open_hub(where: Location, settings: Settings, *, headers_only: bool) -> Checkpoint:
    repo = _open_repo(where, settings)
    weights = _named(repo, where.file) if where.file else find_weights(repo)
    if not headers_only and settings.hub_cache != "off":
        config = ["config.json"] if repo.stat("config.json") else []
        names = [*config, *find_companions(repo), *weights.files]
        if settings.hub_cache == "on" or repo.fits_cache(names):
            repo.fetch(names)
    known = str(replace(where, revision=None))
    return replace(_open_folder(repo, weights, known), revision=repo.commit)


def _named(repo: HubRepo, name: str) -> Weights:
    """The one file of `repo` that is called so, as its weights. Raises NotFound."""
    if repo.stat(name) is None:
        raise NotFound("no such file", where=f"{repo.url}/{name}", hint="look at the repository's files")
    return Weights((name,))


def _open_folder(folder: Files, weights: Weights, location: str) -> Checkpoint:
    config = read_json(folder, "config.json") if folder.stat("config.json") else None
    if config is not None and not isinstance(config, dict):
        raise CorruptFile("is not a JSON object", where=f"{folder.url}/config.json")
    readers = [folder.open(name) for name in weights.files]
    companions = {name: folder.open(name) for name in find_companions(folder)}
    return _assemble(location, weights, readers, config, companions)


def _assemble(
    location: str,
    weights: Weights,
    files: Sequence[Reader],
    config: Mapping[str, Any] | None,
    companions: Mapping[str, Reader],
) -> Checkpoint:
    """Read the headers of all weight files and check that they make one checkpoint."""
    if weights.files[0].endswith(GGUF):
        from pipeline.checkpoints.gguf.opening import open_gguf

        opened = open_gguf(files[0], config, companions)
        made = {each.name: Source(each, 0) for each in opened.file.entries}
        companions = {**opened.tokenizer, **companions}
        return Checkpoint(
            location, None, made, [opened.file], opened.config, companions, derived=opened.derived
        )
    tensors: dict[str, Source] = {}
    readers: list[Reader] = []
    said: dict[str, str] = {}  # by the files' metadata
    for name, file in zip(weights.files, files, strict=True):
        for entry, reader in _read_entries(file, said):
            if weights.placed is not None and weights.placed.get(entry.name) != name:
                continue  # the index gives this tensor to another file
            if entry.name in tensors:
                raise CorruptFile(f"tensor {entry.name!r} occurs twice", where=location)
            if not readers or readers[-1] is not reader:
                readers.append(reader)
            tensors[entry.name] = Source(entry, len(readers) - 1)
    lost = [name for name in weights.placed or () if name not in tensors]
    if lost:
        raise CorruptFile(
            f"{len(lost)} tensors of {weights.index} are in none of its files, {lost[0]!r} first",
            where=location,
            hint="fetch the model again",
        )
    if not tensors:
        raise NotACheckpoint("holds no tensors", where=location)
    shared = {name: kept for name, kept in said.items() if name not in tensors and kept in tensors}
    return Checkpoint(location, None, tensors, readers, config, companions, shared)


def _dequantised(found: Checkpoint) -> Checkpoint:
    """`found` with its 8-bit floats as what they mean. Raises QuantisedCheckpoint."""
    is_silent = not stated_quantisations(found.config)
    has_codes = any(source.entry.dtype in CODES for source in found.tensors.values())
    if not is_fp8(found.config) and not (is_silent and has_codes):
        return found
    stored = {name: (s.entry, found.readers[s.file]) for name, s in found.tensors.items()}
    made, gone = dequantise(stored, found.config, where=found.location)
    kept = {name: source for name, source in found.tensors.items() if name not in gone}
    return replace(
        found,
        tensors={**kept, **{each.name: Source(each, len(found.readers)) for each in made.entries}},
        readers=[*found.readers, made],
        config=config_without_codes(found.config),
        derived=DERIVED,
    )


def _read_entries(file: Reader, said: dict[str, str]) -> list[tuple[Entry, Reader]]:
    """The tensors of one file in the order of their bytes, each with the reader that has them.

    said: gets its metadata, where `safetensors.torch.save_model` says which names it left out.
    """
    if file.name.endswith(PICKLES):
        from pipeline.checkpoints.pickled import read_pickle

        return sorted(read_pickle(file), key=lambda found: found[0].offset)
    header = read_header(file)
    said |= header.metadata
    return [(entry, file) for entry in header.entries]
