"""An adapter folder as output: its weights in one file, header last, then the files beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipeline.checkpoints.adapters.weights import PREFIX
from pipeline.checkpoints.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from pipeline.checkpoints.header import Tensor, build_header
from pipeline.storage.base import Writer
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.tensors.dtypes import Bytes
from pipeline.tensors.fingerprint import Digest, digest_bytes, fold_tensor

_METADATA = {"format": "pt"}


@dataclass
class WeightsFile:
    """The weights, tensor after tensor as they come; the header's room is kept at the front.

    room: bytes of the header at most. fingerprints: of the tensors so far, by name. header: its digest,
    once it is written.
    """

    writer: Writer
    room: int
    tensors: list[Tensor] = field(default_factory=list)
    fingerprints: dict[str, Digest] = field(default_factory=dict)
    header: Digest = field(default_factory=lambda: digest_bytes(b""))
    _end: int = 0

    def __post_init__(self) -> None:
        self._end = self.room

    def add(self, tensor: Tensor, parts: Iterable[Bytes]) -> None:
        """Write a tensor, whose bytes come in parts: each but the last of whole chunks."""
        self.tensors.append(tensor)
        rows = []
        for part in parts:
            step = CHUNK_ELEMENTS * tensor.dtype.itemsize
            chunks = (part[at : at + step] for at in range(0, len(part), step))
            rows += [np.frombuffer(digest_bytes(chunk.tobytes()).raw, np.uint8) for chunk in chunks]
            size = max(1, self.writer.block_bytes)
            for at in range(0, len(part), size):
                block = part[at : at + size]
                self.writer.write(self._end, block.tobytes())
                self._end += len(block)
        digests = np.array(rows, np.uint8)
        self.fingerprints[tensor.name] = fold_tensor(tensor.dtype, tensor.shape, digests)

    def finish(self) -> int:
        """Write the header, and commit; returns the file's bytes."""
        header = build_header(self.tensors, _METADATA, room=self.room)
        self.header = digest_bytes(header)
        self.writer.write(0, header)
        self.writer.commit()
        return self._end


def header_room(largest: Sequence[Tensor]) -> int:
    """Bytes that the header of such tensors takes at most, whatever their ranks come to."""
    return len(build_header(largest, _METADATA)) + 8


def weight_name(module: str, factor: str) -> str:
    """What PEFT calls a factor of a module."""
    return f"{PREFIX}{module}.lora_{factor}.weight"


def publish_order(files: Mapping[str, bytes]) -> list[str]:
    """The weights first, the config last: without it nothing takes the folder for an adapter."""
    return [ADAPTER_WEIGHTS[0], *(name for name in files if name != ADAPTER_CONFIG), ADAPTER_CONFIG]
