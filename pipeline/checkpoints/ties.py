"""Whether a model's output head is its embedding, and how one tells.

A tied model has one tensor for both, and its files say so in one of four ways: the head is not there and
the config ties it; it is not there and the file's metadata says whose bytes it has (as
`safetensors.torch.save_model` writes); it lies in the very bytes of the embedding (a pickle); or it is
there a second time, equal bit by bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.header import Entry
from pipeline.checkpoints.policy import Config, vocab_size
from pipeline.storage.base import Reader
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS

TIE = "tie_word_embeddings"
HEAD = "lm_head.weight"
SHARED = "shared.weight"  # what T5 and its kin call the table that both sides' `embed_tokens` are, too
# What architectures call the embedding that `lm_head.weight` is tied to, by the name's end.
# The first counts: of `SHARED` the others are copies.
_EMBEDDINGS = (
    SHARED, "embed_tokens.weight", "wte.weight", "word_embeddings.weight", "embed_in.weight",
    "tokens_embed.weight", "embeddings.weight",
)  # fmt: skip

Shape = tuple[int, ...]


class Head(Enum):
    """How a side comes by its output head."""

    NONE = "there is none, and nothing ties one"
    TIED = "the embedding stands for it"
    COPY = "it is the embedding once more"
    OWN = "a tensor of its own"


@dataclass(frozen=True)
class Names:
    """The tensors of one side: a checkpoint, or what a delta was made of.

    shared: names that are not there, each with the one whose bytes it has. is_copy: whether two of its
    tensors are the same bit by bit, as far as that is known or, if it may, read.
    """

    location: str
    shapes: Mapping[str, Shape]
    config: Config | None
    shared: Mapping[str, str] = field(default_factory=dict)
    is_copy: Callable[[str, str, bool], bool] = lambda one, other, may_read: False

    def head_name(self) -> str | None:
        """What the head is called here, if it is here."""
        return _ending(self.shapes, (HEAD,))

    def embedding_of(self, head: str) -> str | None:
        """The tensor that the head called `head` is tied to, or would be."""
        shared = self.shared.get(head)
        return shared if shared in self.shapes else _ending(self.shapes, _EMBEDDINGS)

    @property
    def says_tied(self) -> bool:
        """Whether its config ties head and embedding, by itself or by its architecture's default."""
        said = tied_by_config(self.config)
        if said is None and self.config is not None:
            from pipeline.checkpoints.architecture import default_of

            said = default_of(self.config, TIE)
        return said is True

    def copied(self, name: str, among: Iterable[str]) -> str | None:
        """The one of `among` that `name` is a copy of, which has a row for each token.

        Told by the place or by digests; values are read only where its config ties.
        """
        shape, rows = self.shapes[name], vocab_size(self.config)
        if rows is None or shape[:1] != (rows,):
            return None
        alike = [each for each in among if each != name and self.shapes.get(each) == shape]
        may_read = bool(alike) and self.says_tied
        return next((each for each in alike if self.is_copy(name, each, may_read)), None)

    def head(self) -> Head:
        """How it comes by its head. Values are compared only where its config calls them tied."""
        name = self.head_name()
        if name is None:
            tied = any(each.endswith(HEAD) for each in self.shared)
            known = _ending(self.shapes, _EMBEDDINGS) is not None
            return Head.TIED if known and (tied or self.says_tied) else Head.NONE
        embedding = self.embedding_of(name)
        if embedding is None or tied_by_config(self.config) is False:
            return Head.OWN
        may_read = tied_by_config(self.config) is True
        return Head.COPY if self.is_copy(name, embedding, may_read) else Head.OWN


def names_of(model: Checkpoint) -> Names:
    """The names of a checkpoint."""
    shapes = {name: source.entry.shape for name, source in model.tensors.items()}

    def is_copy(one: str, other: str, may_read: bool) -> bool:
        return are_equal(model, one, other, may_read=may_read)

    return Names(model.location, shapes, model.config, model.shared, is_copy)


def head_beside(embedding: str, head: str, other: str | None) -> str:
    """What a head would be called on the side that calls its embedding `embedding`.

    head, other: what the other side calls its head and embedding. What stands before a model's body, as
    in `language_model.model.…`, stands before its head, too.
    """
    if other in (None, embedding):
        return head
    before, body, _ = embedding.rpartition(".model.")
    return f"{before}.{HEAD}" if body else HEAD


def tied_by_config(config: Config | None) -> bool | None:
    """What a config, or its text part, says of a tie; None where it says nothing."""
    text = (config or {}).get("text_config")
    for part in (config or {}, text if isinstance(text, Mapping) else {}):
        if type(part.get(TIE)) is bool:
            return bool(part[TIE])
    return None


def untied(config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` for a model whose head is its own, wherever it says otherwise."""
    text = config.get("text_config")
    inner = {"text_config": {**text, TIE: False}} if isinstance(text, Mapping) and TIE in text else {}
    return {**config, **inner, TIE: False}


def are_equal(model: Checkpoint, one: str, other: str, *, may_read: bool = True) -> bool:
    """Whether two tensors are the same bit by bit: told by their place, else read as far as they are.

    Where it may not be read, only the place tells.

    Raises what reading raises.
    """
    left, right = model.tensors[one], model.tensors[other]
    if (left.entry.dtype, left.entry.shape) != (right.entry.dtype, right.entry.shape):
        return False
    if (left.file, left.entry.offset) == (right.file, right.entry.offset):
        return True
    sides = [(model.readers[each.file], each.entry) for each in (left, right)]
    return may_read and have_same_values(*sides)


def have_same_values(*sides: tuple[Reader, Entry]) -> bool:
    """Whether two tensors are the same bit by bit, read as far as they are.

    Raises what reading raises.
    """
    entry = sides[0][1]
    if any((other.dtype, other.shape) != (entry.dtype, entry.shape) for _, other in sides):
        return False
    step = CHUNK_ELEMENTS * entry.dtype.itemsize
    for start in range(0, entry.nbytes, step):
        parts = []
        for reader, each in sides:
            parts.append(np.empty(min(step, entry.nbytes - start), np.uint8))
            reader.read_into(each.offset + start, parts[-1].data)
        if not np.array_equal(parts[0], parts[1]):
            return False
    return True


def _ending(names: Iterable[str], endings: tuple[str, ...]) -> str | None:
    """The one of `names` that is or ends, after a dot, with the first ending that any has."""
    for ending in endings:
        found = [name for name in names if name == ending or name.endswith("." + ending)]
        if found:
            return found[0] if len(found) == 1 else None
    return None
