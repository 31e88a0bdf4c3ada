"""The safetensors header: its object, its metadata, its JSON."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from tests.fuzz.draft import OWN, Draft, Fields
from tests.fuzz.mutations.registry import (
    DTYPES,
    JSON_TEXTS,
    MIB,
    NAMES,
    NUMBERS,
    VALUES,
    Mutation,
    heavy,
    mangled,
    mutation,
)


def on_fields(change: Callable[[Random, Fields], None]) -> Mutation:
    """A mutation of the header's object."""

    def function(random: Random, draft: Draft) -> None:
        def on(parts: tuple[Fields, bytes]) -> tuple[Fields, bytes]:
            change(random, parts[0])
            return parts

        draft.on_fields.append(on)

    function.__name__ = change.__name__
    return mutation(function)


def entry(random: Random, fields: Fields) -> Any:
    """Some tensor's entry."""
    return random.choice([value for name, value in fields if name != "__metadata__"])


@on_fields
def a_dtype_that_lies(random: Random, fields: Fields) -> None:
    entry(random, fields)["dtype"] = random.choice(DTYPES)


@on_fields
def a_shape_that_lies(random: Random, fields: Fields) -> None:
    found = entry(random, fields)
    shape = found["shape"] if isinstance(found["shape"], list) else []
    found["shape"] = random.choice([
        [], [*shape, 1], [1, *shape], [*shape, 0], [random.choice(NUMBERS)],
        [*shape, random.choice(NUMBERS)],
        [random.choice(NUMBERS) for _ in range(3)], [-size for size in shape],
        [[size] for size in shape],
        [1 << 62] * 300, [1] * 10_000, shape[::-1], "1", None, {}, [True], ["1"], [None], [-0.0],
    ])  # fmt: skip


@on_fields
def offsets_that_lie(random: Random, fields: Fields) -> None:
    found = entry(random, fields)
    low, high = found["data_offsets"]
    by = random.choice([1, -1, 8, -8, 1 << 40, 1 << 63])
    found["data_offsets"] = random.choice([
        [low + by, high + by], [low, high + by], [low + by, high], [high, low], [low, low], [high, high],
        [low], [], [low, high, high], None, "x", {}, [str(low), str(high)], [float(low), float(high)],
        [-high, -low], [True, high], [random.choice(NUMBERS), random.choice(NUMBERS)],
    ])  # fmt: skip


@on_fields
def overlapping_tensors(random: Random, fields: Fields) -> None:
    found = [value for name, value in fields if name != "__metadata__"]
    left, right = random.choice(found), random.choice(found)
    left["data_offsets"] = list(right["data_offsets"])
    if random.random() < 0.5:
        left["shape"], left["dtype"] = right["shape"], right["dtype"]


@on_fields
def offsets_in_another_order(random: Random, fields: Fields) -> None:
    """Sound, where bytes go with them; here they do not."""
    found = [value for name, value in fields if name != "__metadata__"]
    at = 0
    for value in random.sample(found, len(found)):
        low, high = value["data_offsets"]
        value["data_offsets"] = [at, at + high - low]
        at += high - low


@on_fields
def entries_in_another_order(random: Random, fields: Fields) -> None:
    """Which means nothing."""
    random.shuffle(fields)


@on_fields
def a_name_twice(random: Random, fields: Fields) -> None:
    name, value = random.choice(fields)
    fields.insert(random.randrange(len(fields) + 1), (name, random.choice([value, {}, None])))


@on_fields
def a_name_changed(random: Random, fields: Fields) -> None:
    at = random.randrange(len(fields))
    fields[at] = random.choice(NAMES), fields[at][1]


@on_fields
def an_entry_that_is_none(random: Random, fields: Fields) -> None:
    at = random.randrange(len(fields))
    fields[at] = fields[at][0], random.choice(VALUES)


@on_fields
def an_entry_gone(random: Random, fields: Fields) -> None:
    del fields[random.randrange(len(fields))]


@on_fields
def a_key_too_many_or_too_few(random: Random, fields: Fields) -> None:
    found = entry(random, fields)
    if random.random() < 0.5:
        found[random.choice(NAMES)] = random.choice(VALUES)
    else:
        del found[random.choice(list(found))]


@on_fields
def an_empty_tensor_more(random: Random, fields: Fields) -> None:
    at = random.choice([0, *entry(random, fields)["data_offsets"]])
    shape = random.choice([[0], [0, 1 << 62], [1 << 62, 0], [1 << 40, 1 << 40, 0], [0] * 1000])
    value = {"dtype": "U8", "shape": shape, "data_offsets": [at, at]}
    fields.append((random.choice([OWN + "x", "stray", OWN + "file.vocab.txt", *NAMES]), value))


@mutation
def metadata_of_other_kinds(random: Random, draft: Draft) -> None:
    key = random.choice([*draft.metadata, "x", *NAMES])
    draft.metadata[key] = random.choice([*VALUES, "x" * 200_000])


@mutation
def metadata_gone(random: Random, draft: Draft) -> None:
    del draft.metadata[random.choice(list(draft.metadata))]


@on_fields
def all_metadata_of_another_kind(random: Random, fields: Fields) -> None:
    fields[0] = (
        "__metadata__",
        random.choice([None, [], "x", 1, {}, [["format", "pt"]], {"a": {"b": "c"}}]),
    )


@mutation
def another_version(random: Random, draft: Draft) -> None:
    draft.metadata["paramdelta.version"] = random.choice(
        ["2", "0", "", "01", "1.0", " 1", "１", "x" * 99, "\x1b[2J"]
    )


@mutation
def a_header_of_other_json(random: Random, draft: Draft) -> None:
    def bend(header: bytes) -> bytes:
        text = header.rstrip()
        at = random.choice([at for at, byte in enumerate(text) if byte in b'{}[]:,"'])
        return random.choice([
            random.choice(JSON_TEXTS), text + random.choice(JSON_TEXTS), b" " + text, b"\n\t" + text,
            text + b"\0\0\0", text + b"\n", b"\xef\xbb\xbf" + text, text[:at] + text[at + 1 :],
            text[:at] + random.choice([b" ", b",", b":", b"/**/", b"\xff", b"\0", b"0"]) + text[at:],
            text.replace(b"[0,", b"[-0,"), text.replace(b"[0,", b"[00,"), text.replace(b"[0,", b"[0.0,"),
            text.replace(b"[0,", b"[0e0,"), text.replace(b'"pt"', b'"\\ud800"'),
            text.replace(b'"pt"', b"NaN"),
            text.replace(b'"format"', b'"\\udfff"'), text.replace(b'"pt"', b'"\\ud83d\\ude00"'),
            text.replace(b'"U8"', b'"\\u00558"'), text.replace(b'"pt"', b"[" * 500 + b"]" * 500),
            text.decode().encode("utf-16"), mangled(random, text),
        ])  # fmt: skip

    draft.on_header.append(bend)


@mutation
def a_seal_that_occurs_twice(random: Random, draft: Draft) -> None:
    draft.metadata["again"] = "0" * random.choice([64, 63, 65, 128])


@heavy
def a_huge_header(random: Random, draft: Draft) -> None:
    """Names, spaces or values by the million."""
    more = random.choice([
        lambda: [("x" * (20 * MIB), {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]})],
        lambda: [(f"{i}", {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}) for i in range(60_000)],
        lambda: [("x", {"dtype": "U8", "shape": [1 << 62] * 300_000, "data_offsets": [0, 0]})],
        lambda: [("x", {"dtype": "U8", "shape": [0] * 1_000_000, "data_offsets": [0, 0]})],
        lambda: [("x", [[]] * 5_000_000)],
        lambda: [("x", [{}] * 2_000_000)],
    ])  # fmt: skip
    if random.random() < 0.2:
        draft.on_header.append(lambda header: header + b" " * (30 * MIB))
    else:
        draft.on_fields.append(lambda parts: (parts[0] + more(), parts[1]))
