"""Tensors that are made on the way, and read as if they lay in a file.

A quantised tensor, an adapter's product, rows in another order: each is a function of bytes that lie
elsewhere. A `Derivation` makes any range of one tensor, and a `DerivedReader` puts several behind each
other as one file that nobody has written. So plans, kernels, digests and memory bounds need not know.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from pipeline.checkpoints.header import Entry
from pipeline.storage.base import Reader
from pipeline.tensors.dtypes import Bytes, DType
from pipeline.tensors.fingerprint import digest_bytes


class Derivation(Protocol):
    """One tensor that is made of others. Safe to use from several threads."""

    @property
    def dtype(self) -> DType:
        """The format of what it makes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of what it makes."""

    @property
    def readers(self) -> Sequence[Reader]:
        """What it reads; their versions are its own."""

    @property
    def recipe(self) -> str:
        """What it does with them: another if what it makes of the same bytes is."""

    def fill(self, start: int, out: Bytes) -> None:
        """Fill `out` with the tensor's elements from number `start` on, in row-major order.

        Takes memory in proportion to `out` and to one row, never to the tensor.
        """


class DerivedReader:
    """Derivations by the names of what they make, one behind the other, as one file; see `Reader`.

    entries: where each lies in it. What they read is closed with it, once.
    """

    def __init__(self, name: str, derivations: Mapping[str, Derivation]) -> None:
        self.name = name
        self._derivations = list(derivations.values())
        self.entries: list[Entry] = []
        self.nbytes = 0
        for tensor, each in derivations.items():
            self.entries.append(Entry(tensor, each.dtype, each.shape, self.nbytes))
            self.nbytes += self.entries[-1].nbytes
        self._starts = [entry.offset for entry in self.entries]
        self._readers = list({id(r): r for each in self._derivations for r in each.readers}.values())
        self.is_remote = any(reader.is_remote for reader in self._readers)
        recipes = [each.recipe for each in self._derivations]
        versions = [f"{reader.name} {reader.version}" for reader in self._readers]
        self.version = str(digest_bytes("\0".join([*recipes, *versions]).encode()))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with whole elements from `offset` on, of one tensor or of several.

        Raises what reading what it is made of raises.
        """
        out = np.frombuffer(buffer, np.uint8)
        while len(out):
            number = bisect_right(self._starts, offset) - 1
            made, entry = self._derivations[number], self.entries[number]
            have = min(len(out), entry.offset + entry.nbytes - offset)
            made.fill((offset - entry.offset) // entry.dtype.itemsize, out[:have])
            out, offset = out[have:], offset + have

    def close(self) -> None:
        """Close everything that it reads."""
        for reader in self._readers:
            reader.close()
