"""Where the tensors of a PyTorch pickle lie, without loading them.

`torch.load(weights_only=True)` builds the objects on fake tensors, whose storages know their offset in
the file; the bytes are then read by range like those of safetensors. Nothing else is unpickled. Files
of the format before PyTorch 1.6, and views that are not contiguous, have no such range: their values
are read into memory whole.
"""

from __future__ import annotations

import io
import zipfile
from typing import TYPE_CHECKING

from pipeline.checkpoints.header import Entry
from pipeline.errors import CorruptFile, NotACheckpoint
from pipeline.storage.base import Reader
from pipeline.storage.reader_file import ReaderFile
from pipeline.tensors.dtypes import TORCH_NAMES, DType
from pipeline.tensors.fingerprint import digest_bytes

if TYPE_CHECKING:
    import torch

# torch.save nests a state dict like this when it saves a training checkpoint.
_WRAPPERS = ("state_dict", "model")


class MemoryReader:
    """Bytes in memory as a `Reader`."""

    is_remote = False

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self._data = memoryview(data)
        self.nbytes = len(data)
        self.version = str(digest_bytes(data))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`."""
        buffer[:] = self._data[offset : offset + len(buffer)]

    def close(self) -> None:
        """Nothing to let go of."""


def read_pickle(reader: Reader) -> list[tuple[Entry, Reader]]:
    """The tensors of a `.bin`, `.pt` or `.pth` file, each with the reader that has its bytes.

    Raises CorruptFile for a file that torch cannot read or would have to run code for, and
    NotACheckpoint if there are no tensors in it.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    if not _is_plain_archive(reader):
        return _in_memory(reader)
    with FakeTensorMode():
        tensors = _load(reader)
    places = {name: _place(tensor) for name, tensor in tensors.items()}
    if None in places.values():
        return _in_memory(reader)
    return [
        (Entry(name, _dtype(name, tensor, reader), tuple(tensor.shape), places[name] or 0), reader)
        for name, tensor in tensors.items()
    ]


def _is_plain_archive(reader: Reader) -> bool:
    """Whether the archive holds its bytes as they are: not compressed, little-endian."""
    try:
        with zipfile.ZipFile(io.BufferedReader(ReaderFile(reader))) as archive:
            for info in archive.infolist():
                if info.compress_type != zipfile.ZIP_STORED:
                    return False
                if info.filename.endswith("/byteorder") and archive.read(info) != b"little":
                    return False
    except (zipfile.BadZipFile, NotImplementedError, OSError):
        return False  # of the old format, or damaged: torch will say
    return True


def _require_plain(name: str, tensor: torch.Tensor, reader: Reader) -> None:
    """Refuse tensors that have no plain values in the file."""
    import torch

    what = None
    if tensor.layout != torch.strided:
        what = f"is sparse ({tensor.layout})"
    elif tensor.is_quantized:
        what = f"is quantised ({tensor.dtype})"
    elif tensor.numel() * tensor.element_size() > reader.nbytes:
        what = "has more values than the file has bytes"
    if what:
        raise CorruptFile(f"tensor {name!r} {what}", where=reader.name, hint="save it as plain values")


def _load(reader: Reader) -> dict[str, torch.Tensor]:
    import torch

    try:
        found = torch.load(io.BufferedReader(ReaderFile(reader)), weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises nearly anything for a damaged or hostile file
        raise CorruptFile(
            f"torch cannot read it as weights: {(str(error) or type(error).__name__).splitlines()[0]}",
            where=reader.name,
            hint="fetch it again; files that need code to be run are refused",
        ) from error
    for wrapper in _WRAPPERS:
        if isinstance(found, dict) and isinstance(found.get(wrapper), dict):
            found = found[wrapper]
    tensors = {
        name: value
        for name, value in (found.items() if isinstance(found, dict) else ())
        if isinstance(name, str) and isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise NotACheckpoint("holds no tensors", where=reader.name)
    for name, tensor in tensors.items():
        _require_plain(name, tensor, reader)
    return tensors


def _place(tensor: torch.Tensor) -> int | None:
    """The tensor's offset in the file, if its bytes are one range of it."""
    if tensor.numel() == 0:
        return 0
    storage_offset = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    if storage_offset is None or not tensor.is_contiguous() or tensor.is_neg() or tensor.is_conj():
        return None
    return int(storage_offset) + int(tensor.storage_offset()) * tensor.element_size()


def _dtype(name: str, tensor: torch.Tensor, reader: Reader) -> DType:
    torch_name = str(tensor.dtype).removeprefix("torch.")
    if torch_name not in TORCH_NAMES:
        raise CorruptFile(f"tensor {name!r} has dtype {torch_name}, unknown to us", where=reader.name)
    return TORCH_NAMES[torch_name]


def _in_memory(reader: Reader) -> list[tuple[Entry, Reader]]:
    import torch

    found: list[tuple[Entry, Reader]] = []
    for name, tensor in _load(reader).items():
        if tensor.is_meta:
            raise CorruptFile(f"tensor {name!r} has no values", where=reader.name)
        values = tensor.detach().resolve_neg().resolve_conj().contiguous()
        data = values.reshape(-1).view(torch.uint8).numpy().tobytes()
        entry = Entry(name, _dtype(name, tensor, reader), tuple(tensor.shape), 0)
        found.append((entry, MemoryReader(f"{reader.name}:{name}", data)))
    return found
