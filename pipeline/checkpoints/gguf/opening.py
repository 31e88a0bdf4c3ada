"""A GGUF file as a checkpoint: its header is read, and every tensor is made when it is asked for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.checkpoints.derived import Derivation, DerivedReader
from pipeline.checkpoints.gguf.header import Header, Packed, read_gguf_header
from pipeline.checkpoints.gguf.tensors import PLAIN, Rows, Vector, dequantised, row_order
from pipeline.checkpoints.gguf.tokenizer import TOKENIZERS, make_tokenizer
from pipeline.checkpoints.gguf.translation import Translation, translate
from pipeline.checkpoints.quantised_config import config_without_codes
from pipeline.errors import Mismatch, NotACheckpoint
from pipeline.storage.base import Reader

_HINT = "use the model's safetensors"
_SPLIT = "split.count"
_ROPE = "rope_freqs.weight"
_TIE = "tie_word_embeddings"


@dataclass(frozen=True)
class Opened:
    """file: all tensors, under Hugging Face's names. derived: see `Checkpoint`. tokenizer: files of the
    one that the header describes.
    """

    file: DerivedReader
    config: Mapping[str, Any]
    derived: str
    tokenizer: Mapping[str, Reader] = field(default_factory=dict)


def open_gguf(reader: Reader, config: Mapping[str, Any] | None, beside: Collection[str] = ()) -> Opened:
    """The checkpoint in the GGUF file that `reader` reads.

    config: of the config.json beside it, if any. beside: names of the companions there; without a
    tokenizer among them that of the header is made.

    Raises NotACheckpoint for what is not read, by name; CorruptFile for a file that does not add up;
    Mismatch for tensors that have no place in the model that the file says it is, or that it lacks.
    """
    import gguf

    sizes = {int(kind): size for kind, size in gguf.GGML_QUANT_SIZES.items()}
    header = read_gguf_header(reader, sizes)
    where = reader.name
    if (parts := header.facts.get(_SPLIT)) is not None and parts.value not in (0, 1):
        raise NotACheckpoint(
            f"is one of {parts.value} files", where=where, hint="merge them by llama-gguf-split --merge"
        )
    kinds = {each.kind: gguf.GGMLQuantizationType(each.kind).name for each in header.tensors}
    _refuse_kinds(kinds, sizes, where)
    translation = translate(header, where=where)
    if config is None:
        _require_known_rope(header, where)
    made = _derivations(reader, header, kinds, translation)
    if not made:
        raise NotACheckpoint("holds no tensors", where=where)
    _require_whole(made, translation, config, where)
    label, is_exact = _label(header, kinds)
    label += "" if is_exact else ", dequantised"
    own = config_without_codes(config or translation.config) or {}
    file = DerivedReader(f"{where} (as a checkpoint)", made)
    tokenizer = None if TOKENIZERS.intersection(beside) else make_tokenizer(header, where=where)
    if tokenizer is None:
        return Opened(file, own, label)
    return Opened(file, own, f"{label}, {tokenizer.label}", tokenizer.files)


def _refuse_kinds(kinds: Mapping[int, str], sizes: Mapping[int, tuple[int, int]], where: str) -> None:
    """Raise NotACheckpoint for types that the gguf package cannot dequantise."""
    unknown = []
    for kind, name in kinds.items():
        try:
            dequantised(np.zeros((1, sizes[kind][1]), np.uint8), name)
        except NotImplementedError:
            unknown.append(name)
    if unknown:
        raise NotACheckpoint(
            f"has tensors of type {', '.join(sorted(unknown))}, which cannot be dequantised",
            where=where,
            hint="use a file of another quantisation, or the model's safetensors",
        )


def _require_known_rope(header: Header, where: str) -> None:
    """Refuse a file whose scaling of RoPE is not what a config made of its facts would say."""
    kinds = [fact.value for key, fact in header.facts.items() if key.endswith(".rope.scaling.type")]
    if any(kind != "none" for kind in kinds) or any(each.name == _ROPE for each in header.tensors):
        raise NotACheckpoint(
            "scales RoPE in a way that its facts do not tell in full",
            where=where,
            hint="put the model's config.json beside it",
        )


def _derivations(
    reader: Reader, header: Header, kinds: Mapping[int, str], translation: Translation
) -> dict[str, Derivation]:
    """Every tensor by its Hugging Face name. Raises Mismatch, which says all that does not fit."""
    made: dict[str, Derivation] = {}
    problems = []
    for each in header.tensors:
        if each.name in translation.skipped:
            continue
        name = translation.names.get(each.name)
        shape = translation.shapes.get(name or "")
        if name is None or shape is None:
            problems.append(f"{each.name} has no place in the model")
        elif name in made or [n for n in shape if n != 1] != [n for n in each.shape if n != 1]:
            problems.append(f"{each.name} of shape {list(each.shape)} is not {name} of {list(shape)}")
        else:
            try:
                made[name] = _derivation(reader, each, kinds[each.kind], shape, translation)
            except ValueError as error:
                problems.append(f"{each.name} cannot be read by ranges: {error}")
    if problems:
        raise Mismatch(problems, where=reader.name, hint=_HINT)
    return made


def _require_whole(
    made: Mapping[str, Derivation],
    translation: Translation,
    config: Mapping[str, Any] | None,
    where: str,
) -> None:
    """Raise Mismatch with every tensor that the model has and the file has not.

    config: see `open_gguf`; it may say that nothing is tied.
    """
    is_untied = (config or {}).get(_TIE) is False
    tied = frozenset() if is_untied else translation.tied
    theirs = {name: each for each, name in translation.names.items()}
    lost = [name for name in translation.shapes if name not in made and name not in tied]
    if lost:
        problems = [f"{theirs.get(name, name)} is missing" for name in lost]
        raise Mismatch(problems, where=where, hint="fetch or convert the file again")


def _derivation(
    reader: Reader, packed: Packed, kind: str, shape: tuple[int, ...], translation: Translation
) -> Derivation:
    process = translation.process(packed.name)
    if len(packed.shape) < 2:
        return Vector(reader, packed, kind, shape, process)
    return Rows(reader, packed, kind, shape, row_order(process, packed.rows))


def _label(header: Header, kinds: Mapping[int, str]) -> tuple[str, bool]:
    """What the file is, by the type that most of its bytes have; and whether no value was quantised."""
    sizes: Counter[str] = Counter()
    for each in header.tensors:
        sizes[kinds[each.kind]] += each.nbytes
    commonest = max(sizes, key=lambda name: (sizes[name], name))
    return f"GGUF {commonest}", set(sizes) <= PLAIN.keys()
