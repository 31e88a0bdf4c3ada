"""Digests of weights on this machine's disks, kept from run to run where people ask for it.

Digests are a third of a run's work, and the same models are read over and over: one base by many deltas,
all by each candidate of a sweep. What is kept of a file is found again by its device, number, size and
times (stat(2)), as backup tools know what they have read before. No program sets back the time of the
last change of status, so other content means another version. Not noticed are a clock that was turned
back, a file that a program has mapped and goes on writing to, and a disk that rots.

A file of digests: how many tensors (a little-endian number of 8 bytes); for each of them three such
numbers, where it begins in the file of weights, its bytes, those of an element; and 32 bytes for each of
their chunks, tensor after tensor. That is some 32 bytes for a MiB of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from pipeline.cache import forget_unused, read_cached, write_cached
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.header import Entry
from pipeline.errors import CorruptFile
from pipeline.storage.local.store import LocalReader
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.tensors.dtypes import Bytes
from pipeline.tensors.fingerprint import DIGEST_BYTES, are_made, digest_into

Rows = NDArray[np.uint8]  # (chunks, DIGEST_BYTES)
_Place = tuple[int, int, int]  # of a tensor in its file: where it begins, its bytes, those of an element


class KeptDigests:
    """What is known of a checkpoint's chunks before any of it is read.

    folder: where digests are kept; None for nowhere. rows: of each tensor that is known, the digests of
    its chunks. Only files of this machine's disks are known, and not what is made on the way.
    """

    def __init__(self, model: Checkpoint, folder: Path | None) -> None:
        self._model = model
        self._files = {
            number: (reader, folder / f"{_key(reader.stamp)}.digests")
            for number, reader in enumerate(model.readers)
            if folder is not None and isinstance(reader, LocalReader) and reader.stamp is not None
        }
        self._kept = {number: _read(path) for number, (_, path) in self._files.items()}
        self._names: dict[int, list[str]] = {number: [] for number in self._files}  # of their tensors
        self.rows: dict[str, Rows] = {}
        for name, source in model.tensors.items() if self._files else ():
            if source.file in self._files:
                self._names[source.file].append(name)
                rows = self._kept[source.file].get(_place(source.entry))
                if rows is not None:
                    self.rows[name] = rows

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors that are known."""
        return sum(self._model.tensors[name].entry.nbytes for name in self.rows)

    def digest_into(self, row: NDArray[np.uint8], name: str, chunk: int, data: Bytes) -> None:
        """Write the digest of `data`, a chunk of the tensor `name`, into `row` (32 bytes)."""
        known = self.rows.get(name)
        if known is None:
            digest_into(row, data.data)
        else:
            row[:] = known[chunk]

    def keep(self, found: Callable[[], Mapping[str, Rows]]) -> None:
        """Keep the digests that `found` has, for each tensor rows for all chunks and perhaps more.

        It is asked only where something is to be kept. Those of a tensor of which a chunk was not read
        are not. Raises CorruptFile if a file of which digests were known was changed while it was read.
        """
        made = found() if self._files else {}
        written: list[Path] = []
        for number, (reader, path) in self._files.items():
            kept = self._kept[number]
            if not reader.is_unchanged:
                if kept:
                    raise CorruptFile(
                        "was changed while it was read",
                        where=reader.name,
                        hint="run this again once nothing writes to it",
                    )
                continue
            new: dict[_Place, Rows] = {}
            for name in self._names[number]:
                place = _place(self._model.tensors[name].entry)
                if name in made and are_made(rows := made[name][: _chunks(place)]):
                    new[place] = rows
            if new.keys() - kept.keys():
                write_cached(path, _packed(kept | new))
                written.append(path)
        if written:
            forget_unused(written[0].parent, "*.digests*")


def _key(stamp: str) -> str:
    return blake3(f"paramdelta digests 1 {stamp}".encode()).hexdigest(length=16)


def _place(entry: Entry) -> _Place:
    return entry.offset, entry.nbytes, entry.dtype.itemsize


def _chunks(place: _Place) -> int:
    _, nbytes, itemsize = place
    return -(-nbytes // (itemsize * CHUNK_ELEMENTS))


def _packed(kept: Mapping[_Place, Rows]) -> bytes:
    places = np.array([*kept], "<u8").reshape(-1, 3)
    parts = [len(places).to_bytes(8, "little"), places.tobytes()]
    return b"".join([*parts, *(rows.tobytes() for rows in kept.values())])


def _read(path: Path) -> dict[_Place, Rows]:
    """The digests that are kept at `path`; none if it is not as long as it says."""
    content = read_cached(path) or bytes(8)
    begin = 8 + 24 * int.from_bytes(content[:8], "little")
    if begin > len(content):
        return {}
    numbers = np.frombuffer(content[8:begin], "<u8").reshape(-1, 3).tolist()
    places = [(offset, nbytes, itemsize) for offset, nbytes, itemsize in numbers]
    ends = [*accumulate(map(_chunks, places), initial=0)]
    if len(content) - begin != ends[-1] * DIGEST_BYTES:
        return {}
    rows = np.frombuffer(content[begin:], np.uint8).reshape(-1, DIGEST_BYTES)
    return {place: rows[a:b] for place, (a, b) in zip(places, pairwise(ends), strict=True)}
