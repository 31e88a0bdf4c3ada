"""What the mutations share: their lists, values to put in, and how bytes are damaged."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tests.fuzz.draft import OWN, Draft

Mutation = Callable[[Random, Draft], None]

MUTATIONS: list[Mutation] = []
HEAVY: set[Mutation] = set()
BLUNT: set[Mutation] = set()

MIB = 1 << 20
DTYPES = ["BF16", "F16", "F32", "F64", "U8", "I8", "BOOL", "I16", "I32", "I64", "U64", "C64",
          "F8_E4M3", "F8_E5M2", "F4", "", "bf16", "F128", None, 5, ["F32"], {}]  # fmt: skip
NUMBERS = [0, 1, 2, 3, -1, 7, 255, 256, 1 << 19, (1 << 19) + 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 53,
           (1 << 63) - 1, 1 << 63, (1 << 64) - 1, 1 << 64, 1 << 200, 0.0, 1.0, 0.5, 1e308,
           -1e308]  # fmt: skip
NAMES = ["../x", "..", ".", "", "/tmp/x", "/etc/passwd", "a\0b", "\0", "a/../../x", "..\\x",
         "C:\\x", "con",
         "\ud800", "x" * 300, "x" * 70_000, "\u202e", "a\nb", "\x1b[2J", "__metadata__", OWN + "index",
         OWN + "manifest", OWN + "x", OWN, "é", "e\u0301", " ", "tokenizer.json", "config.json",
         "model.safetensors", "%2e%2e/x", "~/x", "-rf", "$(x)", "{}", "[red]x[/red]"]  # fmt: skip
VALUES: list[Any] = [None, True, False, *NUMBERS, *NAMES, *DTYPES, [], [0], [[]], [-1], [1 << 70],
                     {}, {"a": 1},
                     "0" * 64, "A" * 64, " " * 64, "0" * 63, "0 " * 64, "none", "rans",
                     "zstd"]  # fmt: skip
JSON_TEXTS = [b"",
              b"{", b"[]", b"null", b"1", b'"x"', b"{}{}", b"{}x", b"\xff", b"\xef\xbb\xbf{}", b"NaN",
              "{}".encode("utf-16"), b"[" * 100_000, b'{"a":' * 100_000, b"[" * 900 + b"]" * 900,
              b"9" * 5000, b"1e999", b"{'a':1}", b'{"a":1,}', b'"\\ud800"',
              b'{"__metadata__":{}}']  # fmt: skip


def mutation(function: Mutation) -> Mutation:
    MUTATIONS.append(function)
    return function


def heavy(function: Mutation) -> Mutation:
    HEAVY.add(function)
    return mutation(function)


def blunt(function: Mutation) -> Mutation:
    BLUNT.add(function)
    return mutation(function)


def flipped(random: Random, data: bytes, count: int = 1, reach: int | None = None) -> bytes:
    changed = bytearray(data)
    for _ in range(count if changed else 0):
        changed[random.randrange(min(len(changed), reach or len(changed)))] ^= 1 << random.randrange(8)
    return bytes(changed)


def mangled(random: Random, data: bytes) -> bytes:
    """Bytes changed, cut, put in or moved."""
    at, size = random.randrange(len(data) + 1), random.choice([1, 2, 4, 8, 32, 100])
    match random.randrange(7):
        case 0:
            return flipped(random, data, random.choice([1, 1, 1, 3, 30]))
        case 1:
            return data[:at]
        case 2:
            return data + random.randbytes(size)
        case 3:
            return data[:at] + random.randbytes(random.randrange(size)) + data[at + size :]
        case 4:
            return data[:at] + bytes(min(size, len(data) - at)) + data[at + size :]
        case 5:
            return data[:at] + data[at : at + size] * 2 + data[at + size :]
    return random.randbytes(random.choice([0, 1, len(data), size]))
