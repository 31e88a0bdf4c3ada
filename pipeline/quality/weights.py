"""A checkpoint's tensors, each read when it is asked for: what a model is filled from without a copy.

transformers takes a state dict whose values are sliced (`tensor[...]`) when the model has a place for
them. It ties, renames and merges them by its own rules; nothing but the model itself is in memory.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from pipeline.checkpoints.checkpoint import Checkpoint, Source
from pipeline.errors import UsageError
from pipeline.progress import Advance
from pipeline.storage.base import Reader
from pipeline.tensors.dtypes import F32, F64, DType, torch_name
from pipeline.units import MIB

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "bfloat16", "float16", "float32")
_READ_BYTES = 8 * MIB


def choose_dtype(checkpoint: Checkpoint, dtype: str) -> str:
    """The float format that `dtype` asks for, by torch's name; "auto": that of most of the weights.

    Raises UsageError.
    """
    if dtype not in DTYPES:
        raise UsageError(f"{dtype!r} is not a dtype for models", hint=f"use {', '.join(DTYPES)}")
    if dtype != "auto":
        return dtype
    sizes: Counter[DType] = Counter()
    for source in checkpoint.tensors.values():
        if source.entry.dtype.is_float:
            sizes[source.entry.dtype] += source.entry.nbytes
    most = max(sizes, key=lambda each: sizes[each]) if sizes else F32
    return torch_name(F32 if most == F64 else most) or "float32"


class StoredTensor:
    """One tensor of a checkpoint, read in pieces into place each time it is sliced.

    dtype: by torch's name; narrower floats are widened to it on the way, exactly and without a second
    whole copy. strange: gets the tensor's name if any of its values is not finite.
    """

    def __init__(
        self, source: Source, reader: Reader, dtype: str, strange: set[str], advance: Advance
    ) -> None:
        self._entry, self._reader = source.entry, reader
        self._dtype, self._strange, self._advance = dtype, strange, advance

    def __getitem__(self, key: Any) -> torch.Tensor:
        """The values at `key`. transformers asks for all of them at once, by `...`."""
        return self._read()[key]

    def _read(self) -> torch.Tensor:
        import torch

        entry = self._entry
        stored: torch.dtype = getattr(torch, torch_name(entry.dtype) or "uint8")
        wanted: torch.dtype = getattr(torch, self._dtype)
        widens = entry.dtype.is_float and wanted.itemsize > stored.itemsize
        whole = torch.empty(entry.count, dtype=wanted if widens else stored)
        step = max(1, _READ_BYTES // entry.dtype.itemsize)
        staged = torch.empty(min(step, entry.count), dtype=stored) if widens else None
        for begin in range(0, entry.count, step):
            target = whole[begin : begin + step]
            piece = target if staged is None else staged[: len(target)]
            buffer = piece.view(torch.uint8).numpy().data
            self._reader.read_into(entry.offset + begin * entry.dtype.itemsize, buffer)
            if staged is not None:
                target.copy_(piece)
            if entry.dtype.is_float and not bool(torch.isfinite(piece).all()):
                self._strange.add(entry.name)
            self._advance(len(buffer))
        return whole.reshape(entry.shape)


def stored_tensors(
    checkpoint: Checkpoint, dtype: str, strange: set[str], advance: Advance
) -> dict[str, StoredTensor]:
    """Every tensor of `checkpoint` by name, unread. The arguments are those of `StoredTensor`."""
    return {
        name: StoredTensor(source, checkpoint.readers[source.file], dtype, strange, advance)
        for name, source in checkpoint.tensors.items()
    }
