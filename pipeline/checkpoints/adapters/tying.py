"""Adapters of models whose embedding and head are one tensor.

PEFT merges in place. An adapted embedding of a tied model changes the head with it, and so do we. One
that is held whole (`modules_to_save`) replaces one side only, and the model is untied from then on.
An adapted head would change the embedding only when merged: that is no model anybody trained.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from typing import Any

from pipeline.checkpoints.adapters.naming import Loaded
from pipeline.checkpoints.adapters.weights import Adapter, Stored
from pipeline.checkpoints.header import Entry
from pipeline.checkpoints.policy import vocab_size
from pipeline.checkpoints.ties import HEAD, SHARED, Head, Names, have_same_values, untied
from pipeline.errors import NotACheckpoint
from pipeline.storage.base import Reader

_HEAD_MODULE = HEAD.removesuffix(".weight")
Tensors = MutableMapping[str, tuple[Reader, Entry]]


def tie(
    adapter: Adapter,
    whole: MutableMapping[str, Stored],
    base: Names,
    tensors: Tensors,
    config: dict[str, Any] | None,
) -> None:
    """Give a tied base what the adapter needs of a head of its own, in `tensors` and `config`.

    Where embedding and head come whole and are the same, the model stays tied. Raises NotACheckpoint
    for what would come out as no trained model.
    """
    head = base.head_name() or HEAD
    embedding = base.embedding_of(head)
    if config is None:
        return
    if embedding is None or embedding.endswith(SHARED):
        _refuse_unknown(adapter, whole, base)
    if embedding is None:
        return
    heads = [module for module in adapter.factors if module.rpartition(".")[2] == _HEAD_MODULE]
    module = embedding.removesuffix(".weight")
    adapted = any(name == module or name.endswith(f".{module}") for name in adapter.factors)
    held = {embedding, head} & whole.keys()
    if not (heads or adapted or held) or base.head() not in (Head.TIED, Head.COPY):
        return
    if heads or (adapter.config.ensure_tying and (adapted or embedding in whole)):
        raise NotACheckpoint(
            "adapts the head of a model whose head is its embedding: merged, it would change both",
            where=adapter.location,
            hint="untie the base first, or train with the head in modules_to_save",
        )
    tensors.pop(head, None)
    if adapted or not held or (head not in whole and not _has_head(base, embedding)):
        return
    if held == {embedding, head} and have_same_values(*(_placed(whole[name]) for name in held)):
        del whole[head]
        return
    reader, entry = tensors[embedding]
    tensors[head] = (reader, replace(entry, name=head))
    config.update(untied(config))


def _has_head(base: Names, embedding: str) -> bool:
    """Whether anything is tied to the embedding once it is loaded; a classifier has no head."""
    loaded = Loaded.of(base.config, base.shapes)
    return loaded.copies(loaded.name(embedding)) != []


def _placed(stored: Stored) -> tuple[Reader, Entry]:
    return stored.reader, stored.entry


def _refuse_unknown(adapter: Adapter, whole: Mapping[str, Stored], base: Names) -> None:
    """Raise NotACheckpoint if what is held whole may be tied to more than a head."""
    rows = vocab_size(base.config)
    tables = [name for name, stored in whole.items() if stored.entry.shape[:1] == (rows,)]
    if tables and base.says_tied:
        raise NotACheckpoint(
            f"holds {', '.join(tables)} whole, and what its base ties to that is not known",
            where=adapter.location,
            hint="merge it with PEFT's `merge_and_unload`, and give the merged model",
        )
