"""A checkpoint whose vocabulary has another's order of rows, made on the way and never written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from pipeline.checkpoints.checkpoint import Checkpoint, Source
from pipeline.checkpoints.derived import DerivedReader
from pipeline.checkpoints.files import TOKENIZERS
from pipeline.checkpoints.policy import with_vocab_size
from pipeline.checkpoints.row_order import ABSENT, RowOrder
from pipeline.storage.base import Reader
from pipeline.tensors.dtypes import Bytes, DType
from pipeline.tensors.fingerprint import digest_bytes


@dataclass(frozen=True)
class Rows:
    """One tensor with its rows in another order, zeros for those that it lacks; see `Derivation`."""

    source: Source
    reader: Reader
    order: RowOrder

    @property
    def dtype(self) -> DType:
        """The source's."""
        return self.source.entry.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """The source's, with as many rows as the order has places."""
        return (self.order.count, *self.source.entry.shape[1:])

    @property
    def readers(self) -> Sequence[Reader]:
        """The source's."""
        return [self.reader]

    @cached_property
    def recipe(self) -> str:
        """Where the source lies, and the order."""
        return f"rows {self.source.entry} {digest_bytes(repr(self.order).encode())}"

    def fill(self, start: int, out: Bytes) -> None:
        """See `Derivation`. Rows that are neighbours in the source take one read."""
        entry = self.source.entry
        row_bytes = math.prod(entry.shape[1:]) * entry.dtype.itemsize
        first, skipped = divmod(start * entry.dtype.itemsize, row_bytes)
        last = -(-(first * row_bytes + skipped + len(out)) // row_bytes)
        at = 0
        for row, count in self.order.pieces(first, last):
            size = min(count * row_bytes - skipped, len(out) - at)
            part = out[at : at + size]
            if row == ABSENT:
                part[:] = 0
            else:
                self.reader.read_into(entry.offset + row * row_bytes + skipped, part.data)
            at += size
            skipped = 0


def reorder(model: Checkpoint, order: RowOrder, names: Sequence[str]) -> Checkpoint:
    """`model` with the rows of the tensors `names` in `order`.

    Its config says how many rows there are; it has no tokenizer, for ids mean something else in it. What
    it reads is closed with `model`.
    """
    made = {
        name: Rows(source, model.readers[source.file], order)
        for name in names
        for source in [model.tensors[name]]
    }
    file = DerivedReader(f"{model.location}, rows in another order", made)
    sources = {entry.name: Source(entry, len(model.readers)) for entry in file.entries}
    tensors = {name: sources.get(name, source) for name, source in model.tensors.items()}
    companions = {name: reader for name, reader in model.companions.items() if name not in TOKENIZERS}
    return replace(
        model,
        tensors=tensors,
        readers=[*model.readers, file],
        config=with_vocab_size(model.config, order.count),
        companions=companions,
    )
