"""What a sum must know of each thing that it adds, and how it comes by its chunks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.vocabulary import Vocabulary
from pipeline.deltas.base_rows import BaseRows
from pipeline.deltas.base_sample import BaseSample
from pipeline.deltas.manifest import Identity, TensorForm
from pipeline.deltas.sampling import read_values
from pipeline.engine.plan import Input, Ragged
from pipeline.engine.work import Tables
from pipeline.storage.base import Reader
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS, Arithmetic, Corrections
from pipeline.tensors.dtypes import Bytes
from pipeline.tensors.fingerprint import DIGEST_BYTES, Digest, digest_into

MakeArithmetic = Callable[[], Arithmetic]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where an addend comes from. location, fingerprint: of the delta, if there is one."""

    location: str | None
    fingerprint: Digest | None
    base: Identity | None
    post: Identity | None


class AddedTensor(Protocol):
    """One tensor of an addend."""

    @property
    def record(self) -> TensorForm:
        """What it is, known before any of its values is read."""

    @property
    def digests(self) -> NDArray[np.uint8]:
        """For each of its chunks those of `BASE` and `POST`; valid once the chunk was decoded."""

    @property
    def changed(self) -> bool:
        """Whether post differs from base anywhere. To find it out, both may have to be read."""


class Decoder(Protocol):
    """Makes the chunks of one addend. It belongs to one worker, for it reuses its buffers."""

    def __call__(self, name: str, chunk: int, first: Bytes, second: Bytes) -> tuple[Bytes, Corrections]:
        """The values of a chunk of the tensor `name`, and what they lost, from its two inputs.

        Both are valid until the next call.
        """


class Addend(Protocol):
    """Something that a sum adds: post - base, wherever it is."""

    @property
    def location(self) -> str:
        """What people know it by, safe to show."""

    @property
    def tensors(self) -> Mapping[str, AddedTensor]:
        """By name."""

    @property
    def readers(self) -> Sequence[Reader]:
        """What its inputs are read from."""

    @property
    def config(self) -> Mapping[str, Any] | None:
        """Post's config.json."""

    @property
    def vocab_size(self) -> int | None:
        """Rows of post's embedding, as its config says."""

    @property
    def base_rows(self) -> BaseRows | None:
        """The order in which its base's vocabulary stands, if that is not its own."""

    def read_vocabulary(self) -> Vocabulary | None:
        """The tokens of post, if its tokenizer is of a known form."""

    @property
    def findings(self) -> Tables:
        """What its decoders find out; an interrupted run must get it back."""

    @property
    def recalled_bytes(self) -> int:
        """Of the models that it reads, the bytes whose digests are known without."""

    def keep_digests(self) -> None:
        """Keep those of the models that it reads, if asked to; once all its chunks are decoded.

        Raises CorruptFile if a model was changed meanwhile.
        """

    @property
    def scratch_bytes(self) -> int:
        """What a decoder needs at most, what it returns included."""

    @property
    def origin(self) -> Origin:
        """Where it comes from; complete once all its chunks are decoded."""

    def inputs(self, name: str, first_reader: int) -> tuple[Input | Ragged | None, ...]:
        """Two, what a decoder needs of a tensor; readers are numbered from `first_reader`."""

    def decoder(self, arithmetic: MakeArithmetic) -> Decoder:
        """A decoder for one worker."""

    def is_on(self, base: Checkpoint, probes: Sequence[str]) -> bool:
        """Whether adding it to `base` seems to give post back, `base` having its own base's form.

        probes: tensors, not empty, whose first chunks tell, unless it is known without reading.
        """

    def check_base(self, old: Checkpoint) -> None:
        """`old` must have the form of its base. Raises OtherCheckpoint, or UsageError if it has none."""

    def read_sample(self) -> BaseSample | None:
        """A few values of its base, None if it has none that tell."""

    def read_tokenizer(self) -> bytes | None:
        """The content of post's tokenizer.json, if there is one."""

    def read_companions(self) -> dict[str, bytes]:
        """The content of all companions of post."""


def read_chunk(model: Checkpoint, name: str, chunk: int) -> Bytes:
    """One chunk of a model's tensor; empty behind its end."""
    return read_values(model, name, chunk * CHUNK_ELEMENTS, CHUNK_ELEMENTS)


def first_digest(model: Checkpoint, name: str) -> NDArray[np.uint8]:
    """The digest of a tensor's first chunk."""
    found = np.empty(DIGEST_BYTES, np.uint8)
    digest_into(found, read_chunk(model, name, 0).data)
    return found
