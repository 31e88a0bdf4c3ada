"""Delta files taken apart and put together by the letter of their format, with no code of ours."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blake3 import blake3

PREFIX = "__paramdelta__."
SEAL = "paramdelta.header"


@dataclass
class Parts:
    """A safetensors file: metadata, and for each tensor (dtype, shape, bytes) in the order of bytes."""

    metadata: dict[str, str]
    tensors: dict[str, tuple[str, list[int], bytes]] = field(default_factory=dict)

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest as JSON."""
        return json.loads(self.tensors[PREFIX + "manifest"][2])

    def put(self, name: str, data: bytes) -> None:
        """Replace or add one of the delta's own byte tensors."""
        self.tensors[PREFIX + name] = ("U8", [len(data)], data)

    def put_manifest(self, manifest: Any, **options: Any) -> None:
        """Replace the manifest, and its digest as a forger would."""
        data = manifest if isinstance(manifest, bytes) else json.dumps(manifest, **options).encode()
        self.put("manifest", data)
        self.metadata["paramdelta.manifest"] = blake3(data).hexdigest()


def ranges(path: Path) -> dict[str, tuple[int, int]]:
    """Where each tensor's bytes are in the file, and under "header" where its header is."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    found = {"header": (0, begin)}
    for name, value in header.items():
        if name != "__metadata__":
            low, high = value["data_offsets"]
            found[name] = (begin + low, begin + high)
    return found


def take_apart(path: Path) -> Parts:
    """The parts of a safetensors file."""
    data = path.read_bytes()
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    parts = Parts(header.pop("__metadata__"))
    for name, value in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        low, high = value["data_offsets"]
        parts.tensors[name] = (value["dtype"], value["shape"], data[begin + low : begin + high])
    return parts


def put_together(path: Path, parts: Parts, *, sealed: bool = True) -> Path:
    """Write the file that `parts` make, with the header's digest made anew as a forger would.

    sealed: else its metadata stay as they are.
    """
    metadata = {**parts.metadata, SEAL: "0" * 64} if sealed else parts.metadata
    header: dict[str, Any] = {"__metadata__": metadata}
    at = 0
    for name, (dtype, shape, data) in parts.tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    if sealed:
        zeros, digest = (f'"{SEAL}": "{each}"' for each in ("0" * 64, blake3(head).hexdigest()))
        head = head.replace(zeros.encode(), digest.encode(), 1)
    path.write_bytes(head + b"".join(data for _, _, data in parts.tensors.values()))
    return path


def flipped(data: bytes, at: int, bit: int) -> bytes:
    """`data` with one bit the other way."""
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
