"""An adapter's tensors, by the modules of its base that they belong to.

Names as PEFT saves them (`get_peft_model_state_dict`): `base_model.model.` and the module's name, then
`lora_A.weight` and `lora_B.weight`, for an embedding `lora_embedding_A` and `lora_embedding_B`, for DoRA
`lora_magnitude_vector`; files of training runs have the adapter's name `default` in them. What has no
such end is a parameter that the adapter holds whole; an adapted module's own is called `base_layer`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.checkpoints.adapters.config import AdapterConfig
from pipeline.checkpoints.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    PICKLES,
    find_companions,
    read_json,
)
from pipeline.checkpoints.header import Entry, read_header
from pipeline.errors import CorruptFile, Mismatch, NotFound
from pipeline.storage.base import Files, Reader

PREFIX = "base_model.model."
_PARTS = re.compile(
    r"(?P<module>.+)\.(?:lora_(?P<linear>[AB])(?:\.default)?\.weight"
    r"|lora_embedding_(?P<embedding>[AB])(?:\.default)?"
    r"|lora_(?P<magnitude>magnitude_vector)(?:\.default)?(?:\.weight)?)"
)
_BESIDE = re.compile(r"\.(?:original_module|modules_to_save(?:\.default)?)\.(?=[^.]+$)")
_WRAPPED = re.compile(r"\.(?:base_layer|modules_to_save(?:\.default)?)\.(?=[^.]+$)")


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of an adapter, and the reader that has its bytes."""

    entry: Entry
    reader: Reader


@dataclass(slots=True)
class Factors:
    """What adapts one module: its two factors, and DoRA's magnitudes."""

    parts: dict[str, Stored] = field(default_factory=dict)  # "A", "B", "magnitude"
    is_embedding: bool = False


@dataclass(frozen=True)
class Adapter:
    """An opened adapter. factors: by module. whole: by parameter. companions: files beside it.

    revision: the Hub commit, if it is from the Hub.
    """

    location: str
    config: AdapterConfig
    factors: Mapping[str, Factors]
    whole: Mapping[str, Stored]
    readers: Sequence[Reader]
    companions: Mapping[str, Reader]
    revision: str | None = None

    def close(self) -> None:
        """Close all files."""
        for reader in (*self.readers, *self.companions.values()):
            reader.close()


def open_adapter(folder: Files, location: str) -> Adapter:
    """Open the adapter that `folder` holds, reading its config and its header.

    Raises NotFound, CorruptFile, Mismatch, and NotACheckpoint for what is not merged here.
    """
    config = AdapterConfig.parse(
        read_json(folder, ADAPTER_CONFIG), where=f"{folder.url}/{ADAPTER_CONFIG}"
    )
    name = next((name for name in ADAPTER_WEIGHTS if folder.stat(name)), None)
    if name is None:
        raise NotFound(f"has neither {' nor '.join(ADAPTER_WEIGHTS)}", where=location)
    file = folder.open(name)
    factors: dict[str, Factors] = {}
    whole: dict[str, Stored] = {}
    problems = []
    found_all = _read(file)
    names = {stored.entry.name for stored in found_all}
    for stored in found_all:
        entry = stored.entry
        if _is_replaced(entry.name, names):
            continue
        if not entry.name.startswith(PREFIX):
            problems.append(f"{entry.name} does not begin with {PREFIX}")
        elif not entry.dtype.is_float and "lora_" in entry.name:
            problems.append(f"{entry.name} is {entry.dtype}")
        elif what := _sort(stored, factors, whole, config):
            problems.append(what)
    for module, found in factors.items():
        problems += [f"{module} lacks its factor {part}" for part in "AB" if part not in found.parts]
        if not config.is_target(module):
            problems.append(f"{module} has factors, but target_modules does not name it")
    if problems:
        raise Mismatch(
            problems, where=location, hint="load it with PEFT and save it again with `save_pretrained`"
        )
    if not factors and not whole:
        raise CorruptFile("holds no tensors", where=file.name)
    stored_all = [s for each in factors.values() for s in each.parts.values()] + list(whole.values())
    readers = list({id(s.reader): s.reader for s in stored_all}.values())
    companions = {name: folder.open(name) for name in find_companions(folder)}
    revision = getattr(folder, "commit", None)
    return Adapter(location, config, factors, whole, readers, companions, revision)


def _is_replaced(name: str, names: Collection[str]) -> bool:
    """Whether an adapter has a better one of a tensor that it holds whole.

    PEFT 0.21.2 writes the parameters of a module in `modules_to_save` once; but where embeddings were
    resized, it writes all there is below the embedding and the head: beside `X.weight`, which it loads,
    the same as `X.modules_to_save.weight`, and as `X.original_module.weight` what base had.
    """
    plain = _BESIDE.sub(".", name)
    return plain != name and plain in names


def _read(file: Reader) -> list[Stored]:
    if not file.name.endswith(PICKLES):
        return [Stored(entry, file) for entry in read_header(file).entries]
    from pipeline.checkpoints.pickled import read_pickle

    return [Stored(entry, reader) for entry, reader in read_pickle(file)]


def _sort(
    stored: Stored, factors: dict[str, Factors], whole: dict[str, Stored], config: AdapterConfig
) -> str | None:
    """Put a tensor where it belongs; returns why it belongs nowhere."""
    name = stored.entry.name.removeprefix(PREFIX)
    match = _PARTS.fullmatch(name)
    if match is None:
        if "lora_" in name:
            return f"{name} is no part of an adapter that we know"
        plain = _WRAPPED.sub(".", name)
        twice = plain in whole
        whole[plain] = stored
        return f"{plain} is there twice" if twice else None
    part = match["linear"] or match["embedding"] or match["magnitude"].partition("_")[0]
    found = factors.setdefault(match["module"], Factors())
    if part in found.parts or (match["linear"] and found.is_embedding):
        return f"{match['module']} has its part {part} twice"
    if part == "magnitude" and not config.use_dora:
        return f"{name} is there, but use_dora is not set"
    found.parts[part] = stored
    found.is_embedding = found.is_embedding or match["embedding"] is not None
    return None
