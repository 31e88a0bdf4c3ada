"""The golden files: two tiny models, committed, and the deltas between them as they must be written.

    python -m tests.deltas.golden        # write them all anew: only when the format itself changes

Values are made of integers alone, so that no library's random numbers matter. The tool's version, which
goes into manifests, is pinned, and the zstd library is pinned by requirements.txt.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np

FOLDER = Path(__file__).parent / "golden"
PINNED = "param-delta-pipeline golden"
DELTAS = {"packed": "rans", "plain": "none"}

Tensors = dict[str, tuple[str, np.ndarray]]  # dtype and values, bfloat16 as its bits


def noise(count: int, seed: int) -> np.ndarray:
    """Integers below 2^16 from a linear congruence."""
    found, state = [], seed
    for _ in range(count):
        state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
        found.append(state >> 48)
    return np.array(found, np.int64)


def bits(values: np.ndarray) -> np.ndarray:
    return (values % (1 << 16)).astype("<u2")


def models() -> tuple[Tensors, Tensors]:
    """Base and post."""
    weight = 0x3C00 + noise(4096, 1) % 256 + 0x8000 * (noise(4096, 2) % 2)
    step = np.array([0, 0, 0, 0, 1, -1, 2, -2])[noise(4096, 3) % 8]
    tuned = weight + step
    tuned[100:4000:300] = 0x3F80 + noise(13, 4) % 500  # far off: remainders, and escapes in the coder
    tuned[[7, 1007, 2007, 3007]] = 0x8000, 0x7FC1, 0x7F80, 0xFF81  # -0, NaNs, infinity: exceptions
    embed = 0x3D00 + noise(32, 5) % 512
    norm = (1 + noise(90, 6) / 65536).astype("<f4")
    base: Tensors = {
        "embed.weight": ("BF16", bits(embed[:24]).reshape(6, 4)),
        "layer.weight": ("BF16", bits(weight).reshape(64, 64)),
        "frozen.weight": ("BF16", bits(noise(33, 7))),
        "norm.weight": ("F32", norm),
        "half.weight": ("F16", (noise(9, 8) / 4096).astype("<f2")),
        "mixed.weight": ("F32", (noise(8, 9) / 65536).astype("<f4")),
        "wide": ("F64", np.array([1e300, -0.0, 0.1])),
        "scale": ("F32", np.array(1.5, "<f4")),
        "empty": ("BF16", np.zeros((0, 4), "<u2")),
        "ids": ("I64", np.arange(5)),
        "mask": ("BOOL", np.array([True, False, True])),
    }
    post: Tensors = dict(base) | {
        "embed.weight": ("BF16", bits(embed + np.arange(32) % 3).reshape(8, 4)),
        "layer.weight": ("BF16", bits(tuned).reshape(64, 64)),
        "norm.weight": ("F32", (norm + noise(90, 10) / 2**30).astype("<f4")),
        "half.weight": ("F16", (noise(9, 11) / 4096).astype("<f2")),
        "mixed.weight": ("BF16", bits(0x3E00 + noise(8, 12) % 256)),
        "wide": ("F64", np.array([1e300, 1.0, 0.3])),
        "scale": ("F32", np.array(1.25, "<f4")),
        "ids": ("I64", np.arange(5)[::-1]),
    }
    return base, post


def write_model(folder: Path, tensors: Tensors, rows: int) -> None:
    """A safetensors file by the letter of its format, with no library, and a config."""
    folder.mkdir(parents=True, exist_ok=True)
    header, body = {}, b""
    for name, (dtype, values) in sorted(tensors.items(), key=lambda item: -item[1][1].itemsize):
        begin, body = len(body), body + values.tobytes()
        header[name] = {"dtype": dtype, "shape": list(values.shape), "data_offsets": [begin, len(body)]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    (folder / "config.json").write_text(json.dumps({"model_type": "golden", "vocab_size": rows}))


@contextlib.contextmanager
def pinned(tool: str = PINNED) -> Iterator[None]:
    """Manifests name `tool`, whatever this tool's version is."""
    from pipeline.operations import compute

    with mock.patch.object(compute, "Manifest", partial(compute.Manifest, tool=tool)):
        yield


def write_delta(output: Path, codec: str, folder: Path = FOLDER) -> bytes:
    """The bytes of the delta between the models in `folder`, which its manifest names relatively."""
    from pipeline import compute

    before = Path.cwd()
    os.chdir(folder)
    try:
        with pinned():
            compute("./base", "./post", str(output.absolute()), codec=codec, workers=1, overwrite=True)
    finally:
        os.chdir(before)
    return output.read_bytes()


def main() -> None:
    """Write everything."""
    base, post = models()
    write_model(FOLDER / "base", base, rows=6)
    write_model(FOLDER / "post", post, rows=8)
    (FOLDER / "post" / "generation_config.json").write_text('{"eos_token_id": 7}\n')
    tokenizer = {"model": {"vocab": {f"token {i}": i for i in range(8)}}}
    (FOLDER / "post" / "tokenizer.json").write_text(json.dumps(tokenizer) + "\n")
    for name, codec in DELTAS.items():
        write_delta((FOLDER / name).with_suffix(".safetensors").absolute(), codec)


if __name__ == "__main__":
    main()
