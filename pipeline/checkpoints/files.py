"""Which files of a model folder are weights, config and companions; small files read whole."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import CorruptFile, IsAnAdapter, NotACheckpoint, NotFound
from pipeline.storage.base import Files, Reader
from pipeline.storage.names import safe_name
from pipeline.units import MIB, format_bytes

SAFETENSORS = ".safetensors"
PICKLES = (".bin", ".pt", ".pth")
GGUF = ".gguf"
SAFETENSORS_INDEX = "model.safetensors.index.json"
INDEXES = (SAFETENSORS_INDEX, "pytorch_model.bin.index.json")
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
TOKENIZER = "tokenizer.json"
GENERATION = "generation_config.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
MAX_JSON_BYTES = 256 * MIB

PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # of images and sound
# What travels with a post model: everything that turns text into ids and back, and how to generate.
COMPANIONS = (
    TOKENIZER, "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "chat_template.jinja", "chat_template.json", GENERATION,
    *PROCESSORS,
)  # fmt: skip
# Of these the ones that each say a tokenizer by itself.
TOKENIZERS = (
    TOKENIZER, "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model",
)  # fmt: skip
COMPANION_FOLDERS = ("additional_chat_templates/",)
MAX_NAME_BYTES = 255  # of a file in a folder, on all systems that we know


@dataclass(frozen=True, slots=True)
class Weights:
    """The files of a folder that hold weights, and where each tensor is, if an index says so."""

    files: tuple[str, ...]
    placed: Mapping[str, str] | None = None
    index: str | None = None


def find_weights(folder: Files) -> Weights:
    """Find the weights of a model folder: safetensors, pickles, GGUF; a single file before an index.

    Raises IsAnAdapter, and NotACheckpoint for a folder that holds no model, or an adapter as well.
    """
    found = _find_usual(folder)
    if found is not None:
        _refuse_both(folder, found)
        return found
    names = [blob.name for blob in folder.list() if "/" not in blob.name]
    if ADAPTER_CONFIG in names:
        raise IsAnAdapter(
            "is a LoRA adapter, not a model",
            where=folder.url,
            hint="give it with its base (--base), or merge it into its base first",
        )
    return _find_only(folder, names)


def _find_usual(folder: Files) -> Weights | None:
    """The weights under the names that transformers looks for, in its order."""
    for single, index in zip(SINGLE_FILES, INDEXES, strict=True):
        if folder.stat(single):
            return Weights((single,))
        if folder.stat(index):
            placed = _read_index(folder, index)
            return Weights(tuple(sorted(set(placed.values()))), placed, index)
    return None


def _refuse_both(folder: Files, found: Weights) -> None:
    """Raise NotACheckpoint if an adapter lies beside a model: transformers would add it, others not."""
    if folder.stat(ADAPTER_CONFIG) is None:
        return
    if weights := next((name for name in ADAPTER_WEIGHTS if folder.stat(name)), None):
        raise NotACheckpoint(
            f"holds a model ({found.index or found.files[0]}) and an adapter ({weights}): "
            "which of them is meant, or both together, is not guessed at",
            where=folder.url,
            hint=f"bring {ADAPTER_CONFIG} and {weights} into a folder of their own",
        )


def _find_only(folder: Files, names: Sequence[str]) -> Weights:
    """The one file of weights under whatever name."""
    for endings in ((SAFETENSORS,), PICKLES, (GGUF,)):
        found = [name for name in names if name.endswith(endings)]
        if len(found) == 1:
            return Weights((found[0],))
        if found:
            raise NotACheckpoint(
                f"holds {len(found)} weight files and no index: {', '.join(found[:5])}",
                where=folder.url,
                hint=f"add {SAFETENSORS_INDEX}, or name one of the files"
                if endings != (GGUF,)
                else "name one of the files: the folder or the repository, a slash and its name",
            )
    raise NotACheckpoint(
        "no weights here" if names else "no such folder, or it is empty",
        where=folder.url,
        hint="expected model.safetensors, its index, or pytorch_model.bin",
    )


def _read_index(folder: Files, name: str) -> dict[str, str]:
    """The weight map of an index: which file has which tensor."""
    fields = read_json(folder, name)
    placed = fields.get("weight_map") if isinstance(fields, dict) else None
    if not isinstance(placed, dict) or not all(isinstance(file, str) for file in placed.values()):
        raise CorruptFile("has no weight_map", where=f"{folder.url}/{name}")
    missing = [file for file in sorted(set(placed.values())) if not folder.stat(safe_name(file))]
    if missing:
        raise NotFound(
            f"{len(missing)} of the files that {name} names are missing: {', '.join(missing[:10])}",
            where=folder.url,
            hint="fetch the model again",
        )
    return placed


def read_json(folder: Files, name: str) -> Any:
    """The content of a JSON file of `folder`. Raises CorruptFile."""
    reader = folder.open(name)
    try:
        return json.loads(read_all(reader))
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"is not JSON: {error}", where=reader.name) from error
    finally:
        reader.close()


def read_file(folder: Files, name: str) -> bytes:
    """The content of a small file of `folder`. Raises NotFound, and what `read_all` does."""
    reader = folder.open(name)
    try:
        return read_all(reader)
    finally:
        reader.close()


def read_all(reader: Reader) -> bytes:
    """All bytes of a small file. Raises CorruptFile if it is not small."""
    if reader.nbytes > MAX_JSON_BYTES:
        raise CorruptFile(f"{format_bytes(reader.nbytes)} is too large", where=reader.name)
    data = bytearray(reader.nbytes)
    reader.read_into(0, memoryview(data))
    return bytes(data)


def is_companion(name: str) -> bool:
    """Whether a file of this name travels with a post model."""
    folder, slash, file = name.rpartition("/")
    is_template = folder + slash in COMPANION_FOLDERS and file.endswith(".jinja")
    return name in COMPANIONS or (is_template and len(file.encode()) <= MAX_NAME_BYTES)


def find_companions(folder: Files) -> list[str]:
    """The companions that `folder` has, by name."""
    extra = [blob.name for place in COMPANION_FOLDERS for blob in folder.list(place)]
    return [name for name in COMPANIONS if folder.stat(name)] + [n for n in extra if is_companion(n)]
