"""The worked example of docs/delta-format.md: a real delta, taken apart byte by byte.

    python -m tests.deltas.example       # write the blocks of that page anew

A test holds the page against what is written today.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import numpy as np

from tests.deltas.golden import Tensors, write_delta, write_model

PAGE = Path(__file__).parents[2] / "docs" / "delta-format.md"
PREFIX = "__paramdelta__."
WIDTH = 100

BASE = np.array([0x3F80, 0x3F80, 0x0000, 0x4040], "<u2")  # 1, 1, 0, 3 in bfloat16
POST = np.array([0x3F81, 0x3C25, 0x8000, 0x4040], "<u2")  # 1.0078125, 0.01007..., -0, 3


def write_example(folder: Path, codec: str) -> bytes:
    """The bytes of the example."""
    base: Tensors = {"n": ("I32", np.array([1, 2], "<i4")), "w": ("BF16", BASE)}
    post: Tensors = {"n": ("I32", np.array([1, 3], "<i4")), "w": ("BF16", POST)}
    for name, tensors in (("base", base), ("post", post)):
        write_model(folder / name, tensors, rows=2)
    (folder / "post" / "generation_config.json").write_text("{}")
    return write_delta(folder / "delta.safetensors", codec, folder)


def hexed(data: bytes) -> list[str]:
    return [data[at : at + 32].hex(" ") for at in range(0, len(data), 32)]


def wrapped(text: str) -> list[str]:
    """JSON cut behind commas, so that the lines joined are the text."""
    lines = [""]
    for piece in re.split(r'(?<=,)(?=["{])', text):
        if len(lines[-1]) + len(piece) > WIDTH and lines[-1]:
            lines.append("")
        lines[-1] += piece
    return lines


class Dump:
    """What a file's bytes are, from the first to the last."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.lines = data, 0, list[str]()

    def take(self, size: int, what: str, *, text: bool = False) -> bytes:
        """Describe the next `size` bytes."""
        part = self.data[self.at : self.at + size]
        self.lines.append(f"{self.at:04x}  {what}, {size} byte{'s' * (size != 1)}")
        body = wrapped(part.decode()) if text else hexed(part)
        if part == b" " * size:
            body = [f"20, {size} times"]
        self.lines += [f"      {line}" for line in body]
        self.at += size
        return part

    def number(self, kind: str, what: str) -> int:
        size = int(kind[1:]) // 8
        value = int.from_bytes(self.take(size, what), "little")
        self.lines[-1] += f"  = {value}"
        return value


def describe(data: bytes) -> str:
    """The packed example, byte by byte."""
    dump = Dump(data)
    size = dump.number("u64", "N")
    header = json.loads(data[8 : 8 + size])
    text = dump.take(len(data[8 : 8 + size].rstrip()), "the header", text=True)
    if size > len(text):
        dump.take(size - len(text), "padding")
    places = {name: value["data_offsets"] for name, value in header.items() if name != "__metadata__"}
    index = np.frombuffer(data[8 + size :], "<u8", 5, places[PREFIX + "index"][0]).tolist()
    dump.lines.append("      -- packed --")
    for chunk, name in enumerate("nw"):
        dump.take(index[2 * chunk + 1] - index[2 * chunk], f"values of {name}: method raw, the elements")
    describe_corrections(dump)
    dump.lines.append("      -- index --")
    for name in "nw":
        dump.number("u64", f"{name}: values from")
        dump.number("u64", f"{name}: corrections from")
    dump.number("u64", "the end")
    dump.lines.append("      -- digests --")
    for name in "nw":
        for side in ("base", "post", "stored", "filed"):
            dump.take(32, f"{name}, {side}")
    dump.lines.append("      -- file.generation_config.json --")
    dump.take(32, "the digest of the frame")
    begin, end = places[PREFIX + "file.generation_config.json"]
    dump.take(end - begin - 32, 'a zstd frame of "{}"')
    dump.lines.append("      -- manifest --")
    begin, end = places[PREFIX + "manifest"]
    dump.take(end - begin, "JSON", text=True)
    assert dump.at == len(data)
    return "\n".join(dump.lines)


def describe_corrections(dump: Dump) -> None:
    dump.number("u32", "corrections of w: R")
    dump.number("u32", "X")
    for what in ("gaps of remainders", "remainders, zigzag", "gaps of exceptions", "exceptions"):
        size = dump.number("u32", f"{what}: size")
        assert size == 1 + (2 if what == "exceptions" else 4)
        dump.take(size, "method raw, one element")


def describe_arithmetic() -> str:
    """What becomes of each element of w."""
    base, post = ((bits.astype("<u4") << 16).view("<f4") for bits in (BASE, POST))
    exact = post - base
    raw = exact.view("<u4")
    stored = ((raw + 0x7FFF + (raw >> 16 & 1)) >> 16).astype("<u2")
    rest = (raw - (stored.astype("<u4") << 16)).view("<i4")
    total = (base + exact).view("<u4")
    restored = ((total + 0x7FFF + (total >> 16 & 1)) >> 16).astype("<u2")
    lines = ["element   base   post   bits of d  stored  remainder   round(base + d)  exception"]
    for i in range(len(BASE)):
        lost = f"{POST[i]:04x}" if restored[i] != POST[i] else "-"
        lines.append(
            f"{i:<9} {BASE[i]:04x}   {POST[i]:04x}   {raw[i]:08x}   {stored[i]:04x}    "
            f"{rest[i] or '-':<11} {restored[i]:04x}             {lost}"
        )
    return "\n".join(lines)


def describe_plain(data: bytes) -> str:
    """The chunks of the plain example."""
    begin = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:begin])
    lines = []
    for name in (f"{PREFIX}carried.n", "w", f"{PREFIX}corrections", f"{PREFIX}index"):
        first, last = header[name]["data_offsets"]
        lines.append(f"{name}, {header[name]['dtype']} {header[name]['shape']}")
        lines += [f"      {line}" for line in hexed(data[begin + first : begin + last])]
    return "\n".join(lines)


def blocks() -> dict[str, str]:
    """What stands between the page's markers, by name."""
    with tempfile.TemporaryDirectory() as place:
        packed = write_example(Path(place), "rans")
        plain = write_example(Path(place), "none")
    return {"w": describe_arithmetic(), "packed": describe(packed), "plain": describe_plain(plain)}


def filled(page: str) -> str:
    """`page` with its blocks as they should be."""
    for name, text in blocks().items():
        marked = re.compile(rf"(<!-- begin {name} -->\n```text\n).*?(\n```\n<!-- end {name} -->)", re.S)
        assert marked.search(page), name
        page = marked.sub(lambda found, text=text: found[1] + text + found[2], page)
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
