"""A delta taken apart so that a forger can change any part, and put together with all digests right."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
from blake3 import blake3

from pipeline.codecs.chunks import ChunkCodec
from pipeline.codecs.corrections import unpack_corrections
from pipeline.deltas.corrections import pack
from pipeline.errors import PipelineError
from pipeline.tensors.dtypes import BY_NAME

OWN = "__paramdelta__."
CHUNK = 1 << 19
MANY_SIZES = 2000  # of a shape, whose product takes long
ZEROS = "0" * 64

Fields = list[tuple[str, Any]]  # a header's JSON object; a name may be there twice


@dataclass
class Chunk:
    """What the file has of one chunk, and its digests."""

    values: bytes
    rest: bytes
    digests: list[bytes]


@dataclass
class Tensor:
    """One record of the manifest, and its chunks."""

    record: Any
    chunks: list[Chunk]


@dataclass
class Draft:
    """Everything in a delta. Later stages of its making may be bent by the functions in the lists.

    companions: content by name; frames: what the file has of them, where that is not simply made of it.
    index: offsets, where they are not those of the chunks. on_manifest, on_header, on_file: change the
    manifest's bytes, the header's bytes (padding included), the whole file. on_fields: change the
    header's object and the body.
    """

    metadata: dict[str, Any]
    manifest: dict[str, Any]
    tensors: list[Tensor]
    companions: dict[str, bytes]
    frames: dict[str, bytes] = field(default_factory=dict)
    index: list[int] | None = None
    on_manifest: list[Callable[[bytes], bytes]] = field(default_factory=list)
    on_fields: list[Callable[[tuple[Fields, bytes]], tuple[Fields, bytes]]] = field(default_factory=list)
    on_header: list[Callable[[bytes], bytes]] = field(default_factory=list)
    on_file: list[Callable[[bytes], bytes]] = field(default_factory=list)

    @property
    def packed(self) -> bool:
        return self.manifest.get("codec") != "none"

    @property
    def chunks(self) -> list[Chunk]:
        return [chunk for tensor in self.tensors for chunk in tensor.chunks]

    @classmethod
    def read(cls, data: bytes) -> Draft:
        """A sound delta's parts."""
        begin = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:begin])
        metadata = header.pop("__metadata__")
        parts = {n: data[begin:][slice(*entry["data_offsets"])] for n, entry in header.items()}
        manifest = json.loads(parts[OWN + "manifest"])
        packed = manifest["codec"] != "none"
        grown = parts[OWN + ("packed" if packed else "corrections")]
        index = np.frombuffer(parts[OWN + "index"], "<u8").tolist()
        digests = np.frombuffer(parts[OWN + "digests"], "u1").reshape(-1, 4 if packed else 3, 32)
        tensors, row, part = [], 0, 0
        for record in manifest["tensors"]:
            count, width = prod(record["shape"]), BY_NAME[record["stored"]].itemsize
            tensor = Tensor(record, [])
            for start in range(0, count, CHUNK):
                if packed:
                    values, part = grown[index[part] : index[part + 1]], part + 1
                else:
                    name = record["name"]
                    whole = parts[name] if name in parts else parts[OWN + "carried." + name]
                    values = whole[start * width : (start + CHUNK) * width]
                rest, part = grown[index[part] : index[part + 1]], part + 1
                tensor.chunks.append(Chunk(values, rest, [row.tobytes() for row in digests[row]]))
                row += 1
            tensors.append(tensor)
        codec = "rans" if packed else "none"
        companions = {name: unpack(parts[f"{OWN}file.{name}"], codec) for name in manifest["files"]}
        return cls(metadata, manifest, tensors, companions)

    def copy(self) -> Draft:
        return deepcopy(self)

    # -- digests ------------------------------------------------------------------------------

    def redigest(self) -> None:
        """All digests as a forger would make them, as far as what they are of means anything."""
        sides: dict[str, dict[str, bytes]] = {"base": {}, "post": {}}
        for tensor in self.tensors:
            with suppress(KeyError, TypeError):
                if max(len(tensor.record[key]) for key in ("shape", "base_shape")) > MANY_SIZES:
                    continue
            for chunk_number, chunk in enumerate(tensor.chunks):
                if self.packed:
                    chunk.digests[3:] = [blake3(chunk.values + chunk.rest).digest()]
                with suppress(PipelineError, ValueError, KeyError, TypeError, IndexError):
                    chunk.digests[2] = blake3(self._stored(tensor, chunk_number)).digest()
            with suppress(KeyError, TypeError, ValueError, AttributeError, IndexError):
                self._fold(tensor, sides)
        for side, digests in sides.items():
            with suppress(KeyError, TypeError, UnicodeError):
                folded = b"".join(n.encode() + b"\0" + digests[n] for n in sorted(digests))
                identity = self.manifest[side]
                identity["fingerprint"] = blake3(b"paramdelta checkpoint 1\n" + folded).hexdigest()
        with suppress(KeyError, TypeError, AttributeError):
            for name in self.manifest["files"]:
                self.manifest["files"][name] = blake3(self.companions[name]).hexdigest()

    def _stored(self, tensor: Tensor, number: int) -> bytes:
        """What the digest of a chunk's content is taken of."""
        record, chunk = tensor.record, tensor.chunks[number]
        if not self.packed:
            return chunk.values + chunk.rest
        stored, post = BY_NAME[record["stored"]], BY_NAME[record["post"]]
        count = min(CHUNK, prod(record["shape"]) - CHUNK * number)
        if not 0 < count <= CHUNK:
            raise ValueError
        codec, out = ChunkCodec(), np.empty(count * stored.itemsize, np.uint8)
        codec.decode(np.frombuffer(chunk.values, np.uint8), stored.itemsize, out)
        width = BY_NAME["F64" if "F64" in (record["base"], record["post"]) else "F32"]
        rest = np.frombuffer(chunk.rest, np.uint8)
        found = unpack_corrections(rest, elements=count, width=width, post=post, codec=codec, where="")
        return out.tobytes() + pack(found)

    def _fold(self, tensor: Tensor, sides: dict[str, dict[str, bytes]]) -> None:
        record = tensor.record
        for column, side in enumerate(("base", "post", "stored")):
            if record[f"{side}_digest"] is None:
                continue
            shape = record["base_shape" if side == "base" else "shape"]
            head = f"paramdelta tensor 1\n{record[side]}\n{','.join(map(str, shape))}\n".encode()
            rows = tensor.chunks[: -(-prod(shape) // CHUNK)]
            digest = blake3(head + b"".join(chunk.digests[column] for chunk in rows)).digest()
            record[f"{side}_digest"] = digest.hex()
            if side in sides:
                sides[side][record["name"]] = digest

    # -- putting it together ------------------------------------------------------------------

    def build(self, *, redigest: bool = True, reseal: bool = True) -> bytes:
        """The file. Without `redigest` the manifest's digest and the chunks' are as they were."""
        if redigest:
            self.redigest()
        manifest = {**self.manifest, "tensors": [tensor.record for tensor in self.tensors]}
        if "tensors" not in self.manifest:
            del manifest["tensors"]
        text = json.dumps(manifest).encode()
        for bend in self.on_manifest:
            text = attempted(bend, text)
        if redigest:
            self.metadata["paramdelta.manifest"] = blake3(text).hexdigest()
        fields, body = self._lay_out(text)
        for change in self.on_fields:
            fields, body = attempted(change, (fields, body))
        header = as_json(fields)
        header += b" " * (-len(header) % 8)
        for bend in self.on_header:
            header = attempted(bend, header)
        if reseal:
            header = sealed(header)
        data = len(header).to_bytes(8, "little") + header + body
        for bend in self.on_file:
            data = attempted(bend, data)
        return data

    def _lay_out(self, manifest: bytes) -> tuple[Fields, bytes]:
        """The header's object, the digest of itself still zeros, and the bytes behind it."""
        tensors: list[tuple[str, str, list[int], bytes]] = []
        grown, index = b"", [0]
        for tensor in self.tensors:
            if not self.packed and isinstance(record := tensor.record, dict):
                values = b"".join(chunk.values for chunk in tensor.chunks)
                name = str(record.get("name"))
                form = BY_NAME.get(str(record.get("stored")))
                plain = name if form and form.is_float else OWN + "carried." + name
                tensors.append((plain, record.get("stored"), record.get("shape"), values))  # type: ignore[arg-type]
            for chunk in tensor.chunks:
                for part in (chunk.values, chunk.rest) if self.packed else (chunk.rest,):
                    grown += part
                    index.append(len(grown))
        rows = np.array(self.index if self.index is not None else index, np.uint64)
        codec = "rans" if self.packed else "none"
        frames = {
            name: self.frames[name] if name in self.frames else repack(content, codec)
            for name, content in self.companions.items()
        }
        own = {
            "packed" if self.packed else "corrections": grown,
            "index": rows.astype("<u8").tobytes(),
            "digests": b"".join(b"".join(chunk.digests) for chunk in self.chunks),
            **{f"file.{name}": frame for name, frame in frames.items()},
            "manifest": manifest,
        }
        tensors += [(OWN + name, "U8", [len(data)], data) for name, data in own.items()]
        metadata = {**self.metadata, "paramdelta.header": ZEROS}
        fields: Fields = [("__metadata__", metadata)]
        at = 0
        for name, form, shape, data in tensors:
            fields.append((name, {"dtype": form, "shape": shape, "data_offsets": [at, at + len(data)]}))
            at += len(data)
        return fields, b"".join(data for *_, data in tensors)


def attempted(change: Callable[[Any], Any], value: Any) -> Any:
    """`value` changed, unless another change has left nothing to change."""
    try:
        return change(value)
    except (KeyError, TypeError, IndexError, ValueError, AttributeError, OverflowError):
        return value


def unpack(frame: bytes, codec: str) -> bytes:
    import zstandard

    return zstandard.ZstdDecompressor().decompress(frame[32:]) if codec == "rans" else frame


def repack(content: bytes, codec: str) -> bytes:
    import zstandard

    return framed(zstandard.ZstdCompressor().compress(content)) if codec == "rans" else content


def framed(frame: bytes) -> bytes:
    """A companion's frame, with its digest before it."""
    return blake3(frame).digest() + frame


def as_json(fields: Fields) -> bytes:
    """A JSON object whose names may occur twice."""
    pairs = (f"{json.dumps(name)}:{json.dumps(value, separators=(',', ':'))}" for name, value in fields)
    return ("{" + ",".join(pairs) + "}").encode()


def sealed(header: bytes) -> bytes:
    """`header` with the digest of itself in place of zeros, if there is such a place."""
    if header.count(ZEROS.encode()) != 1:
        return header
    digest = blake3(len(header).to_bytes(8, "little") + header).hexdigest()
    return header.replace(ZEROS.encode(), digest.encode())
