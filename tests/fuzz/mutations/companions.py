"""The files that travel with a delta: names, zstd frames, bombs."""

from __future__ import annotations

import json
from functools import cache
from random import Random
from typing import Any

import zstandard

from tests.fuzz.draft import Draft, framed
from tests.fuzz.mutations.registry import (
    JSON_TEXTS,
    MIB,
    NAMES,
    VALUES,
    flipped,
    heavy,
    mangled,
    mutation,
)


@mutation
def a_companion_of_another_name(random: Random, draft: Draft) -> None:
    names = [*NAMES, *(f"additional_chat_templates/{name}.jinja" for name in NAMES), "tokenizer.model",
             "additional_chat_templates/x.jinja/y.jinja", "additional_chat_templates/../../x.jinja",
             "additional_chat_templates//x.jinja", "pytorch_model.bin", "modeling_x.py",
             f"additional_chat_templates/{'x' * 250}.jinja", "additional_chat_templates/.jinja",
             "additional_chat_templates/" + "x/" * 2000 + ".jinja"]  # fmt: skip
    for name in random.choices(names, k=random.randint(1, 3)):
        draft.companions[name] = b"content"
        if random.random() < 0.9:
            draft.manifest["files"][name] = "0" * 64
    if random.random() < 0.3:  # a file where a folder should be
        for name in ("additional_chat_templates/x.jinja", "additional_chat_templates/x.jinja/y.jinja"):
            draft.companions[name], draft.manifest["files"][name] = b"x", "0" * 64


@mutation
def many_companions(random: Random, draft: Draft) -> None:
    for number in range(random.choice([10, 300])):
        name = f"additional_chat_templates/{number}.jinja"
        draft.companions[name], draft.manifest["files"][name] = b"{{ x }}", "0" * 64


@mutation
def a_companion_gone(random: Random, draft: Draft) -> None:
    if draft.companions:
        name = random.choice(list(draft.companions))
        random.choice([draft.companions, draft.manifest["files"]]).pop(name)


def single_segment(size: int) -> bytes:
    """A zstd frame that says it has `size` bytes, and has 131,072 times the letter x."""
    block = (1 << 17 << 3 | 1 << 1 | 1).to_bytes(3, "little") + b"x"
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little") + block


@mutation
def a_frame_that_lies(random: Random, draft: Draft) -> None:
    """What zstd makes of a companion, in all the ways in which it may."""
    if not draft.companions:
        return
    name = random.choice(list(draft.companions))
    content = draft.companions[name]
    plain = zstandard.ZstdCompressor().compress(content)
    sizeless = zstandard.ZstdCompressor(write_content_size=False).compress(content)
    skippable = b"\x50\x2a\x4d\x18\4\0\0\0abcd"
    frame = random.choice([
        b"", b"\0", plain[:-1], plain + b"\0", plain * 2, sizeless, skippable, skippable + plain,
        plain + skippable,
        mangled(random, plain), mangled(random, plain), flipped(random, plain, 1, reach=14),
        random.randbytes(50),
        plain[:4] + random.randbytes(14) + plain[18:],
        single_segment(random.choice([0, 5, 1 << 17, 256 * MIB, 256 * MIB + 1, (1 << 64) - 1])),
    ])  # fmt: skip
    draft.frames[name] = random.choice([framed(frame)] * 9 + [frame])


@mutation
def a_tokenizer_of_all_kinds(random: Random, draft: Draft) -> None:
    vocab: Any = random.choice([
        {f"token {i}": i for i in range(8)}, {f"token {i}": 7 - i for i in range(8)}, {"a": []},
        {"a": {}}, [["a", 1]],
        [[["a"], 1]], {"a": float("nan")}, {"\ud800": 1},
        {"\x1b[2J": 3}, "x", 5, None, {"x" * 100_000: 3},
    ])  # fmt: skip
    content = random.choice([
        json.dumps({"model": {"vocab": vocab}}).encode(), json.dumps(vocab).encode(),
        random.choice(JSON_TEXTS),
        json.dumps({"model": {"vocab": vocab}, "added_tokens": random.choice(VALUES)}).encode(),
        b'{"model": {"vocab": [' + b"[" * 900 + b"]" * 900 + b"]}}",
    ])  # fmt: skip
    draft.companions["tokenizer.json"] = content
    draft.manifest["files"]["tokenizer.json"] = "0" * 64


@cache
def bomb(size: int, kind: str) -> tuple[bytes, bytes]:
    """Content that is large, and the little that zstd makes of it."""
    unit = {"zeros": b"\0", "lists": b"[],", "text": b"a"}[kind]
    content = b"[" * (kind == "lists") + unit * (size // len(unit))
    return content, framed(zstandard.ZstdCompressor().compress(content))


@heavy
def a_companion_that_is_a_bomb(random: Random, draft: Draft) -> None:
    size = random.choice([1, 60, 255, 257]) * MIB
    content, frame = bomb(size, random.choice(["zeros", "lists"]))
    names = random.choice(
        [["tokenizer.json"], ["merges.txt"], ["vocab.txt", "merges.txt", "vocab.json", "tokenizer.json"]]
    )
    if not draft.packed:
        content = frame = content[: 8 * MIB]
    for name in names:
        draft.companions[name], draft.frames[name] = content, frame
        draft.manifest["files"][name] = "0" * 64
