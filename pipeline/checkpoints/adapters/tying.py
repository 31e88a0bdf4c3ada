"""Adapters of models whose embedding and head are one tensor.

PEFT merges in place. An adapted embedding of a tied model changes the head with it, and so do we. One
that is held whole (`modules_to_save`) replaces one side only, and the model is untied from then on.
An adapted head would change the embedding only when merged: that is no model anybody trained.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.checkpoints.adapters.naming import HEAD
from pipeline.checkpoints.adapters.weights import Adapter, Stored
from pipeline.checkpoints.header import Entry
from pipeline.errors import NotACheckpoint
from pipeline.storage.base import Reader
from pipeline.units import MIB

HEAD_WEIGHT = f"{HEAD}.weight"
EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "tokens_embed.weight", "embed_in.weight")
Tensors = MutableMapping[str, tuple[Reader, Entry]]


def tie(
    adapter: Adapter, whole: MutableMapping[str, Stored], tensors: Tensors, config: dict[str, Any] | None
) -> None:
    """Give a tied base what the adapter needs of a head of its own, in `tensors` and `config`.

    Where embedding and head come whole and are the same, the model stays tied. Raises NotACheckpoint
    for what would come out as no trained model.
    """
    embedding = next((name for name in tensors if name.endswith(EMBEDDINGS)), None)
    tied = (config or {}).get("tie_word_embeddings", True) and HEAD_WEIGHT not in tensors
    if embedding is None or config is None or not tied:
        return
    heads = [module for module in adapter.factors if module.rpartition(".")[2] == HEAD]
    module = embedding.removesuffix(".weight")
    adapted = any(name == module or name.endswith(f".{module}") for name in adapter.factors)
    if heads or (adapter.config.ensure_tying and (adapted or embedding in whole)):
        raise NotACheckpoint(
            "adapts the head of a model whose head is its embedding: merged, it would change both",
            where=adapter.location,
            hint="untie the base first, or train with the head in modules_to_save",
        )
    if adapted or not {embedding, HEAD_WEIGHT} & whole.keys():
        return
    if {embedding, HEAD_WEIGHT} <= whole.keys() and _same(whole[embedding], whole[HEAD_WEIGHT]):
        del whole[HEAD_WEIGHT]
        return
    reader, entry = tensors[embedding]
    tensors[HEAD_WEIGHT] = (reader, replace(entry, name=HEAD_WEIGHT))
    config["tie_word_embeddings"] = False


def _same(one: Stored, other: Stored) -> bool:
    """Whether two tensors have the same bytes."""
    if (one.entry.dtype, one.entry.shape) != (other.entry.dtype, other.entry.shape):
        return False
    for at in range(0, one.entry.nbytes, MIB):
        size = min(MIB, one.entry.nbytes - at)
        left, right = np.empty(size, np.uint8), np.empty(size, np.uint8)
        one.reader.read_into(one.entry.offset + at, left.data)
        other.reader.read_into(other.entry.offset + at, right.data)
        if not np.array_equal(left, right):
            return False
    return True
