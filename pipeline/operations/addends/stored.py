"""A delta file as something that a sum adds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.vocabulary import Vocabulary
from pipeline.deltas.base_rows import BaseRows
from pipeline.deltas.base_sample import BaseSample
from pipeline.deltas.delta import Delta
from pipeline.deltas.format import BASE
from pipeline.deltas.stored import StoredTensor
from pipeline.engine.plan import Input, Ragged
from pipeline.engine.work import Tables
from pipeline.operations.addends.addend import Decoder, MakeArithmetic, Origin, first_digest
from pipeline.operations.verify_delta import check_form
from pipeline.storage.base import Reader
from pipeline.tensors.arithmetic import Corrections
from pipeline.tensors.dtypes import Bytes


@dataclass(frozen=True)
class StoredAddend:
    """An opened delta; see `Addend`."""

    delta: Delta

    @property
    def location(self) -> str:
        """See `Addend`."""
        return self.delta.location

    @property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """See `Addend`."""
        return self.delta.tensors

    @property
    def readers(self) -> Sequence[Reader]:
        """See `Addend`."""
        return [self.delta.reader]

    @property
    def config(self) -> Mapping[str, Any] | None:
        """See `Addend`."""
        return self.delta.manifest.post_config

    @property
    def vocab_size(self) -> int | None:
        """See `Addend`."""
        return self.delta.vocab_size

    @property
    def findings(self) -> Tables:
        """None: the file says it all."""
        return ()

    @property
    def recalled_bytes(self) -> int:
        """None: it reads no model."""
        return 0

    def keep_digests(self) -> None:
        """Nothing to keep."""

    @property
    def scratch_bytes(self) -> int:
        """See `Addend`."""
        return self.delta.decoding_bytes

    @property
    def origin(self) -> Origin:
        """See `Addend`."""
        manifest = self.delta.manifest
        return Origin(self.delta.location, manifest.fingerprint, manifest.base, manifest.post)

    def inputs(self, name: str, first_reader: int) -> tuple[Input | Ragged, Ragged]:
        """Its values and what they lost."""
        return self.delta.inputs(self.tensors[name], first_reader)

    def decoder(self, arithmetic: MakeArithmetic) -> Decoder:
        """See `Addend`."""
        decode, tensors = self.delta.decoder(), self.tensors

        def by_name(name: str, chunk: int, first: Bytes, second: Bytes) -> tuple[Bytes, Corrections]:
            return decode(tensors[name], chunk, first, second)

        return by_name

    def is_on(self, base: Checkpoint, probes: Sequence[str]) -> bool:
        """A combination never is: there is no post to be given back."""
        return self.delta.manifest.post is not None and all(
            np.array_equal(first_digest(base, name), self.tensors[name].digests[0, BASE])
            for name in probes
        )

    @property
    def base_rows(self) -> BaseRows | None:
        """See `Addend`."""
        return self.delta.manifest.base_rows

    def read_vocabulary(self) -> Vocabulary | None:
        """See `Addend`."""
        return self.delta.read_vocabulary()

    def check_base(self, old: Checkpoint) -> None:
        """See `Addend`."""
        check_form(self.delta, old, BASE)

    def read_sample(self) -> BaseSample | None:
        """What compute has kept."""
        return self.delta.manifest.base_sample

    def read_tokenizer(self) -> bytes | None:
        """See `Addend`."""
        return self.delta.read_tokenizer()

    def read_companions(self) -> dict[str, bytes]:
        """See `Addend`."""
        return self.delta.read_companions()
