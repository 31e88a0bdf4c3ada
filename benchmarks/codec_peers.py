"""Other compressors, from PyPI, in a folder of their own that is made on the first run."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# Without their dependencies: zipnn's would bring gigabytes of CUDA, and its torch is here already.
WHEELS = (
    "zstandard==0.25.0",
    "lmzip==1.3.0",
    *("blosc2==4.14.1", "numexpr==2.14.2", "ndindex==1.10.1", "msgpack==1.2.4", "threadpoolctl==3.6.0"),
    *("httpx==0.28.1", "httpcore==1.0.9", "h2==4.4.1", "hpack==4.2.0", "hyperframe==6.1.0"),  # blosc2's
)
SOURCES = ("zipnn==0.5.4", "z4ai==0.2.0")  # which need a compiler

PIECE = 8 << 20  # bytes that peers get at once, to their advantage: ours are 1 MiB


@dataclass(frozen=True, slots=True)
class Peer:
    """A compressor of bytes. exact: it is given post and base instead of the delta, as one blob each."""

    name: str
    encode: Callable[[bytes], bytes] | None = None
    decode: Callable[[bytes], Any] | None = None
    exact: tuple[Callable[[bytes, bytes], Any], Callable[[Any, bytes], bytes]] | None = None
    note: str = ""


def install(folder: Path) -> None:
    """Put the peers into `folder`, unless they are there, and make them importable behind our own."""
    wanted = "\n".join((*WHEELS, *SOURCES))
    marker = folder / "installed.txt"
    if not marker.is_file() or marker.read_text() != wanted:
        shutil.rmtree(folder, ignore_errors=True)
        for names in (WHEELS, *((source,) for source in SOURCES)):
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--target",
                folder,
            ]
            subprocess.run([*command, *names], check=False, stdout=sys.stderr)
        marker.write_text(wanted)
    sys.path.append(str(folder))


def peers() -> Iterator[Peer]:
    """Each peer that can be imported; those that can't with a note why."""
    for make in (_zstd, _blosc2, _zipnn, _z4ai, _lmzip):
        try:
            yield from make()
        except Exception as error:
            yield Peer(make.__name__.strip("_"), note=f"left out: {type(error).__name__}: {error}"[:90])


def _zstd() -> Iterator[Peer]:
    zstandard: Any = importlib.import_module("zstandard")
    unpack = zstandard.ZstdDecompressor().decompress
    for level in (3, 1):
        yield Peer(f"zstd -{level}", zstandard.ZstdCompressor(level).compress, unpack)
    pack = zstandard.ZstdCompressor(1).compress

    def split(data: bytes) -> bytes:
        return pack(np.frombuffer(data, np.uint8).reshape(-1, 2).T.tobytes())

    def join(data: bytes) -> bytes:
        return np.frombuffer(unpack(data), np.uint8).reshape(2, -1).T.tobytes()

    yield Peer("byte planes + zstd -1", split, join)


def _blosc2() -> Iterator[Peer]:
    blosc2: Any = importlib.import_module("blosc2")
    blosc2.set_nthreads(1)

    def pack(data: bytes) -> bytes:
        return blosc2.compress2(
            data,
            typesize=2,
            clevel=1,
            codec=blosc2.Codec.ZSTD,
            filters=[blosc2.Filter.SHUFFLE],
            nthreads=1,
        )

    yield Peer("blosc2, shuffle + zstd", pack, blosc2.decompress2)


def _zipnn() -> Iterator[Peer]:
    zipnn: Any = importlib.import_module("zipnn")
    tool = zipnn.ZipNN(input_format="byte", bytearray_dtype="bfloat16", threads=1)
    yield Peer("ZipNN", lambda data: bytes(tool.compress(bytearray(data))), tool.decompress)


def _z4ai() -> Iterator[Peer]:
    codec: Any = importlib.import_module("z4ai.codec")
    delta: Any = importlib.import_module("z4ai.delta")
    yield Peer("z4ai", lambda data: codec.compress(data, dtype="bf16", threads=1), codec.decompress)
    yield Peer(
        "z4ai delta (only for this base)",
        exact=(
            lambda post, base: delta.compress(post, base, dtype="bf16", threads=1),
            lambda packed, base: delta.decompress(packed, base),
        ),
    )


def _lmzip() -> Iterator[Peer]:
    lmz: Any = importlib.import_module("lmz")

    class Archive:
        """post appended to an archive of base; its length is what post added."""

        def __init__(self, post: bytes, base: bytes) -> None:
            self.folder = Path(tempfile.mkdtemp(prefix="lmz-"))
            for name, data in (("base.safetensors", base), ("post.safetensors", post)):
                (self.folder / name).write_bytes(_safetensors(data))
            self.path = self.folder / "all.lmz"
            lmz.compress(str(self.folder / "base.safetensors"), str(self.path), workers=1)
            before = self.path.stat().st_size
            lmz.append(str(self.path), str(self.folder / "post.safetensors"), workers=1)
            self.size = self.path.stat().st_size - before
            shutil.rmtree(self.folder)

        def __len__(self) -> int:
            return self.size

    yield Peer("lmzip delta (only for this base)", exact=(Archive, lambda packed, base: b""))


def _safetensors(data: bytes) -> bytes:
    """A file with `data` as one tensor."""
    text = f'{{"w":{{"dtype":"BF16","shape":[{len(data) // 2}],"data_offsets":[0,{len(data)}]}}}}'
    return len(text).to_bytes(8, "little") + text.encode() + data
