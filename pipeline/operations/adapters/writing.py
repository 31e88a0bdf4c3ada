"""An adapter folder as output: its weights in one file, header last, then the files beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from pipeline.checkpoints.adapters.config import CONFIG_FILE
from pipeline.checkpoints.adapters.weights import PREFIX, WEIGHTS_FILES
from pipeline.checkpoints.header import Tensor, build_header
from pipeline.storage.base import Writer
from pipeline.tensors.dtypes import Bytes

_METADATA = {"format": "pt"}


@dataclass
class WeightsFile:
    """The weights, tensor after tensor as they come; the header's room is kept at the front.

    room: bytes of the header at most.
    """

    writer: Writer
    room: int
    tensors: list[Tensor] = field(default_factory=list)
    _end: int = 0

    def __post_init__(self) -> None:
        self._end = self.room

    def add(self, tensor: Tensor, parts: Iterable[Bytes]) -> None:
        """Write a tensor, whose bytes come in parts."""
        self.tensors.append(tensor)
        for part in parts:
            size = max(1, self.writer.block_bytes)
            for at in range(0, len(part), size):
                block = part[at : at + size]
                self.writer.write(self._end, block.tobytes())
                self._end += len(block)

    def finish(self) -> int:
        """Write the header, and commit; returns the file's bytes."""
        self.writer.write(0, build_header(self.tensors, _METADATA, room=self.room))
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
    return [WEIGHTS_FILES[0], *(name for name in files if name != CONFIG_FILE), CONFIG_FILE]
