"""A difference that is made on the way: post and base are read, and no delta is written.

Its chunks come from the very subtraction that compute does, but they are not rounded for a file: they
stay in the format of the arithmetic, in which a stored delta comes back. So a sum has the same bits as
with that, and post comes back on its own base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.alignment import Pair
from pipeline.checkpoints.as_found import read_digest
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.kept_digests import KeptDigests, Rows
from pipeline.checkpoints.meeting import forms_of
from pipeline.checkpoints.vocabulary import Vocabulary
from pipeline.checkpoints.vocabulary_rows import vocabulary_of
from pipeline.deltas.base_rows import BaseRows
from pipeline.deltas.base_sample import BaseSample
from pipeline.deltas.corrections import NO_CORRECTIONS
from pipeline.deltas.format import BASE, POST
from pipeline.deltas.identity import identify
from pipeline.deltas.manifest import Identity, TensorForm
from pipeline.deltas.pairing import Pairing
from pipeline.deltas.sampling import take_sample
from pipeline.engine.plan import Input
from pipeline.engine.work import Tables
from pipeline.errors import OtherCheckpoint
from pipeline.operations.addends.addend import (
    Decoder,
    MakeArithmetic,
    Origin,
    first_digest,
    read_chunk,
)
from pipeline.storage.base import Reader
from pipeline.tensors.arithmetic import (
    CHUNK_ELEMENTS,
    Arithmetic,
    Corrections,
    Operand,
    subtract_bytes,
)
from pipeline.tensors.dtypes import Bytes, DType, compute_dtype
from pipeline.tensors.fingerprint import DIGEST_BYTES, are_made, fold_tensor


@dataclass(frozen=True)
class SubtractedTensor:
    """One tensor of a difference; see `AddedTensor`. digests: (chunks, 2, 32) bytes, to be filled."""

    record: TensorForm
    digests: NDArray[np.uint8]
    base: Checkpoint
    post: Checkpoint

    @cached_property
    def changed(self) -> bool:
        """Read from both, as far as they are the same, unless their forms tell."""
        record = self.record
        if (record.base, record.base_shape) != (record.post, record.shape):
            return len(self.digests) > 0
        return not all(
            np.array_equal(
                read_chunk(self.post, record.name, chunk), read_chunk(self.base, record.name, chunk)
            )
            for chunk in range(len(self.digests))
        )


@dataclass(frozen=True)
class Subtraction:
    """post - base, both opened; see `Addend`. headers_only: whether their weights may not be read.

    table: a row for each chunk, of the digests of base and post. known: of either, before. found:
    base and post as they lie, of which `base` and `post` were made to meet.
    """

    base: Checkpoint
    post: Checkpoint
    tensors: Mapping[str, SubtractedTensor]
    table: NDArray[np.uint8]
    known: Mapping[int, KeptDigests]
    headers_only: bool
    found: tuple[Checkpoint, Checkpoint]
    base_rows: BaseRows | None = None

    @classmethod
    def of(
        cls, base: Checkpoint, post: Checkpoint, digest_cache: Path | None, *, headers_only: bool
    ) -> Self:
        """The difference of two checkpoints. Raises what compute would raise for them."""
        met = Pairing.of(base, post, reads=False)
        base, post = met.base, met.post
        forms = [_form(pair) for pair in met.pairs]
        ends = np.cumsum([-(-post.tensors[form.name].entry.count // CHUNK_ELEMENTS) for form in forms])
        table = np.zeros((int(ends[-1]), 2, DIGEST_BYTES), np.uint8)
        tensors = {
            form.name: SubtractedTensor(form, rows, base, post)
            for form, rows in zip(forms, np.split(table, ends[:-1]), strict=True)
        }
        known = {BASE: KeptDigests(base, digest_cache), POST: KeptDigests(post, digest_cache)}
        rows = BaseRows.of(met.aligned)
        return cls(base, post, tensors, table, known, headers_only, met.found, rows)

    @property
    def location(self) -> str:
        """See `Addend`."""
        return f"{self.post.location} - {self.base.location}"

    @property
    def readers(self) -> Sequence[Reader]:
        """Those of post, then those of base."""
        return [*self.post.readers, *self.base.readers]

    @property
    def config(self) -> Mapping[str, Any] | None:
        """See `Addend`."""
        return self.post.config

    @property
    def vocab_size(self) -> int | None:
        """See `Addend`."""
        return self.post.vocab_size

    @property
    def findings(self) -> Tables:
        """See `Addend`."""
        return [self.table]

    @property
    def recalled_bytes(self) -> int:
        """See `Addend`."""
        return sum(model.nbytes for model in self.known.values())

    def keep_digests(self) -> None:
        """See `Addend`."""
        for side, model in self.known.items():
            model.keep(partial(self._found, side))

    def _found(self, side: int) -> dict[str, Rows]:
        return {name: tensor.digests[:, side] for name, tensor in self.tensors.items()}

    @property
    def scratch_bytes(self) -> int:
        """The subtraction's own, and the values that it makes."""
        dtypes = self._floats
        return CHUNK_ELEMENTS * compute_dtype(*dtypes).itemsize + subtract_bytes(dtypes)

    @property
    def _floats(self) -> set[DType]:
        records = [tensor.record for tensor in self.tensors.values()]
        return {dtype for each in records for dtype in (each.base, each.post) if dtype.is_float}

    @property
    def origin(self) -> Origin:
        """See `Addend`."""
        base, post = self.found
        return Origin(
            None, None, self._identity(base, self.base, BASE), self._identity(post, self.post, POST)
        )

    def _identity(self, lying: Checkpoint, model: Checkpoint, side: int) -> Identity:
        """Of base or of post. What the result has no place for, as a tied head, is read for it."""
        found = {}
        for name, tensor in self.tensors.items():
            entry = model.tensors[name].entry
            rows = tensor.digests[: -(-entry.count // CHUNK_ELEMENTS), side]
            if are_made(rows):
                found[name] = fold_tensor(entry.dtype, entry.shape, rows)
            else:
                found[name] = read_digest(model, name)
        return identify(lying, model, found)

    def inputs(self, name: str, first_reader: int) -> tuple[Input, Input]:
        """Post's tensor and base's."""
        behind = first_reader + len(self.post.readers)
        return self.post.input(name, first_reader), self.base.input(name, behind)

    def decoder(self, arithmetic: MakeArithmetic) -> Decoder:
        """See `Addend`."""
        return _Subtractor(self.tensors, self.known, arithmetic())

    def is_on(self, base: Checkpoint, probes: Sequence[str]) -> bool:
        """Told without reading where `base` is read from the same files as the difference's own base.

        From headers only, any other is taken for another base.
        """
        if _versions(base) == _versions(self.base):
            return True
        return not self.headers_only and all(
            np.array_equal(first_digest(base, name), first_digest(self.base, name)) for name in probes
        )

    def read_vocabulary(self) -> Vocabulary | None:
        """See `Addend`."""
        return vocabulary_of(self.post)

    def check_base(self, old: Checkpoint) -> None:
        """See `Addend`."""
        if forms_of(old) != forms_of(self.base):
            raise OtherCheckpoint(
                f"is not the base of {self.location}: it has other tensors",
                where=old.location,
                hint=f"give {self.base.location}, or leave out --old-base",
            )

    def read_sample(self) -> BaseSample | None:
        """Read from its base now."""
        return take_sample(self.base, [tensor.record for tensor in self.tensors.values()])

    def read_tokenizer(self) -> bytes | None:
        """See `Addend`."""
        return self.post.read_tokenizer()

    def read_companions(self) -> dict[str, bytes]:
        """See `Addend`."""
        return self.post.read_companions()


class _Subtractor:
    """The decoder of a difference: it subtracts, and digests what it reads."""

    def __init__(
        self,
        tensors: Mapping[str, SubtractedTensor],
        known: Mapping[int, KeptDigests],
        arithmetic: Arithmetic,
    ) -> None:
        self._tensors = tensors
        self._base, self._post = known[BASE], known[POST]
        self._arithmetic = arithmetic  # its own: what it returns must outlive other subtractions
        self._buffer = np.empty(0, np.uint8)

    def __call__(self, name: str, chunk: int, first: Bytes, second: Bytes) -> tuple[Bytes, Corrections]:
        """See `Decoder`. The inputs are those of post and of base."""
        tensor = self._tensors[name]
        record, digests = tensor.record, tensor.digests[chunk]
        self._post.digest_into(digests[POST], name, chunk, first)
        if len(second):  # else rows that only post has
            self._base.digest_into(digests[BASE], name, chunk, second)
        if record.carried:
            return first, NO_CORRECTIONS
        nbytes = len(first) // record.post.itemsize * record.stored.itemsize
        if len(self._buffer) < nbytes:
            self._buffer = np.empty(0, np.uint8)  # not both at once
            self._buffer = np.empty(nbytes, np.uint8)
        values = self._buffer[:nbytes]
        found = self._arithmetic.subtract(
            Operand(first, record.post), Operand(second, record.base), Operand(values, record.stored)
        )
        return values, found.lost


def _form(pair: Pair) -> TensorForm:
    """A pair's difference, unrounded; of one that is carried post's own values."""
    post, base = pair.post.entry, pair.base.entry
    kept = compute_dtype(post.dtype, base.dtype) if post.dtype.is_float else post.dtype
    return TensorForm(pair.name, post.shape, base.shape, kept, base.dtype, post.dtype)


def _versions(model: Checkpoint) -> list[tuple[str, str, int]]:
    return [(reader.name, reader.version, reader.nbytes) for reader in model.readers]
