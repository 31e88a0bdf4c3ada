"""An addend under the names of the result: the same tensors, called as the new base calls them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.header import Entry
from pipeline.checkpoints.vocabulary import Vocabulary
from pipeline.deltas.base_rows import BaseRows
from pipeline.deltas.base_sample import BaseSample
from pipeline.deltas.manifest import TensorForm
from pipeline.engine.plan import Input, Ragged
from pipeline.engine.work import Tables
from pipeline.operations.addends.addend import AddedTensor, Addend, Decoder, MakeArithmetic, Origin
from pipeline.storage.base import Reader
from pipeline.tensors.arithmetic import Corrections
from pipeline.tensors.dtypes import Bytes
from pipeline.tensors.fingerprint import DIGEST_BYTES


@dataclass(frozen=True, slots=True)
class Nothing:
    """A tensor that an addend has nothing for; see `AddedTensor`. It has the new base's form."""

    record: TensorForm

    @property
    def digests(self) -> NDArray[np.uint8]:
        """None: it has no chunk, so none is ever decoded."""
        return np.empty((0, 2, DIGEST_BYTES), np.uint8)

    @property
    def changed(self) -> bool:
        """Nothing changes nothing."""
        return False

    @classmethod
    def at(cls, entry: Entry) -> Nothing:
        """Nothing for the new base's tensor `entry`."""
        shape, dtype = entry.shape, entry.dtype
        return cls(TensorForm(entry.name, shape, shape, dtype, dtype, dtype))


@dataclass(frozen=True)
class MappedAddend:
    """`addend` under other names; see `Addend`.

    own_names: for each name here that of the addend's tensor; several may be one. nothing: tensors that
    it has nothing for.
    """

    addend: Addend
    own_names: Mapping[str, str]
    nothing: Mapping[str, Nothing]

    @property
    def location(self) -> str:
        """See `Addend`."""
        return self.addend.location

    @cached_property
    def tensors(self) -> Mapping[str, AddedTensor]:
        """See `Addend`."""
        own = self.addend.tensors
        return {**{name: own[each] for name, each in self.own_names.items()}, **self.nothing}

    @property
    def readers(self) -> Sequence[Reader]:
        """See `Addend`."""
        return self.addend.readers

    @property
    def config(self) -> Mapping[str, Any] | None:
        """See `Addend`."""
        return self.addend.config

    @property
    def vocab_size(self) -> int | None:
        """See `Addend`."""
        return self.addend.vocab_size

    @property
    def base_rows(self) -> BaseRows | None:
        """See `Addend`."""
        return self.addend.base_rows

    def read_vocabulary(self) -> Vocabulary | None:
        """See `Addend`."""
        return self.addend.read_vocabulary()

    def read_sample(self) -> BaseSample | None:
        """See `Addend`."""
        found = self.addend.read_sample()
        if found is None:
            return None
        kept = [
            {name: values[own] for name, own in self.own_names.items() if own in values}
            for values in (found.runs, found.columns)
        ]
        return BaseSample(*kept)

    @property
    def findings(self) -> Tables:
        """See `Addend`."""
        return self.addend.findings

    @property
    def recalled_bytes(self) -> int:
        """See `Addend`."""
        return self.addend.recalled_bytes

    def keep_digests(self) -> None:
        """See `Addend`."""
        self.addend.keep_digests()

    @property
    def scratch_bytes(self) -> int:
        """See `Addend`."""
        return self.addend.scratch_bytes

    @property
    def origin(self) -> Origin:
        """See `Addend`."""
        return self.addend.origin

    def inputs(self, name: str, first_reader: int) -> tuple[Input | Ragged | None, ...]:
        """See `Addend`; nothing is read of what it has nothing for."""
        if name in self.nothing:
            return None, None
        return self.addend.inputs(self.own_names[name], first_reader)

    def decoder(self, arithmetic: MakeArithmetic) -> Decoder:
        """See `Addend`."""
        decode, own_names = self.addend.decoder(arithmetic), self.own_names

        def by_name(name: str, chunk: int, first: Bytes, second: Bytes) -> tuple[Bytes, Corrections]:
            return decode(own_names[name], chunk, first, second)

        return by_name

    def is_on(self, base: Checkpoint, probes: Sequence[str]) -> bool:
        """See `Addend`; `base` and `probes` under the addend's own names."""
        return self.addend.is_on(base, probes)

    def check_base(self, old: Checkpoint) -> None:
        """See `Addend`; `old` under the addend's own names."""
        self.addend.check_base(old)

    def read_tokenizer(self) -> bytes | None:
        """See `Addend`."""
        return self.addend.read_tokenizer()

    def read_companions(self) -> dict[str, bytes]:
        """See `Addend`."""
        return self.addend.read_companions()
