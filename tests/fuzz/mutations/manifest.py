"""The manifest: records, identities, config, its JSON."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import numpy as np

from tests.fuzz.draft import Draft, Tensor
from tests.fuzz.mutations.registry import (
    JSON_TEXTS,
    MIB,
    NAMES,
    NUMBERS,
    VALUES,
    heavy,
    mangled,
    mutation,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, as a path of keys."""
    inner = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def somewhere(random: Random, content: Any) -> tuple[Any, Any]:
    """A container within `content`, and a key in it."""
    path = random.choice(places(content)[1:])
    for key in path[:-1]:
        content = content[key]
    return content, path[-1]


def some_content(random: Random, draft: Draft) -> Any:
    """A record, mostly, or all of the manifest but for the records."""
    if random.random() < 0.6:
        return random.choice(draft.tensors).record
    return draft.manifest


@mutation
def a_value_replaced(random: Random, draft: Draft) -> None:
    container, key = somewhere(random, some_content(random, draft))
    container[key] = random.choice(VALUES)


@mutation
def a_key_gone(random: Random, draft: Draft) -> None:
    container, key = somewhere(random, some_content(random, draft))
    del container[key]


@mutation
def a_key_more(random: Random, draft: Draft) -> None:
    """Which means nothing."""
    some_content(random, draft)[random.choice(NAMES)] = random.choice(VALUES)


@mutation
def a_record_that_is_none(random: Random, draft: Draft) -> None:
    random.choice(draft.tensors).record = random.choice(VALUES)


@mutation
def a_record_twice(random: Random, draft: Draft) -> None:
    draft.tensors.append(random.choice(draft.tensors))


@mutation
def a_record_gone(random: Random, draft: Draft) -> None:
    del draft.tensors[random.randrange(len(draft.tensors))]


@mutation
def no_records(random: Random, draft: Draft) -> None:
    draft.tensors.clear()


@mutation
def records_in_another_order(random: Random, draft: Draft) -> None:
    """With their chunks: sound."""
    random.shuffle(draft.tensors)


@mutation
def a_tensor_renamed(random: Random, draft: Draft) -> None:
    """In the header too."""
    names = [*NAMES, *(tensor.record["name"] for tensor in draft.tensors)]
    random.choice(draft.tensors).record["name"] = random.choice(names)


@mutation
def another_shape(random: Random, draft: Draft) -> None:
    """In the header too, and with as many elements where it can be."""
    record = random.choice(draft.tensors).record
    shape = record["shape"]
    record["shape"] = random.choice([
        [*shape, 1], [1, *shape], shape[::-1], [int(np.prod(shape))], [1] * 100 + shape, [*shape, 0],
        [1 << 62, 1 << 62], [0, 1 << 62], [1 << 62] * 1000, [random.choice(NUMBERS)], [1 << 40],
        [size + 1 for size in shape], [size // 2 for size in shape],
    ])  # fmt: skip
    if random.random() < 0.7:
        record["base_shape"] = random.choice([record["shape"], shape, [1, *shape], [0, *shape[1:]], []])


@mutation
def other_formats(random: Random, draft: Draft) -> None:
    record = random.choice(draft.tensors).record
    for side in random.sample(["stored", "base", "post"], random.randint(1, 3)):
        record[side] = random.choice(["BF16", "F16", "F32", "F64", "I8", "I16", "I32", "I64", "F8_E4M3"])


@mutation
def the_other_codec(random: Random, draft: Draft) -> None:
    """Of a file whose chunks are of this one."""
    draft.manifest["codec"] = {"rans": "none", "none": "rans"}[draft.manifest["codec"]]
    for chunk in draft.chunks:
        chunk.digests[3:] = [bytes(32)] if draft.packed else []


@mutation
def an_identity_changed(random: Random, draft: Draft) -> None:
    """The digests behind it stay; a fingerprint is what the forger says."""
    side = random.choice(["base", "post"])
    draft.manifest[side] = random.choice([
        None, {}, "x", {"location": "x", "revision": None, "fingerprint": "ab" * 32},
        {"location": random.choice(NAMES), "revision": random.choice(NAMES), "fingerprint": "0" * 64},
    ])  # fmt: skip
    for tensor in draft.tensors:
        if random.random() < 0.3:
            tensor.record[f"{side}_digest"] = random.choice([None, "0" * 64])


@mutation
def ancestors_of_all_kinds(random: Random, draft: Draft) -> None:
    one = {"location": random.choice(NAMES), "scale": random.choice([*NUMBERS, None, "1"]),
           "fingerprint": "0" * 64, "base": None, "post": None}  # fmt: skip
    draft.manifest["ancestors"] = random.choice([[one], [one] * 1000, [[]], {}, one, None])


@mutation
def a_config_of_all_kinds(random: Random, draft: Draft) -> None:
    deep: Any = 1
    for _ in range(random.choice([10, 63, 64, 65, 200, 900])):
        deep = {"a": deep} if random.random() < 0.5 else [deep]
    config = random.choice([
        {"vocab_size": random.choice(VALUES)}, {"text_config": random.choice(VALUES)},
        {"eos_token_id": deep},
        {"text_config": {"vocab_size": random.choice(VALUES)}}, {"architectures": random.choice(VALUES)},
        {"architectures": [random.choice(NAMES)]}, {name: name for name in NAMES}, {"a_token_id": NAMES},
        {"x": float("nan"), "y": float("inf")}, [deep], deep,
    ])  # fmt: skip
    text = json.dumps(config)
    draft.manifest["post_config"] = random.choice([
        text, text, text, config, text + "x",
        "[" * 5000, "{}", "", '{"a":1,"a":2}', '{"a":"\\ud800"}', "\ud800",
    ])  # fmt: skip


@mutation
def a_manifest_of_other_json(random: Random, draft: Draft) -> None:
    def bend(text: bytes) -> bytes:
        at = random.choice([at for at, byte in enumerate(text) if byte in b'{}[]:,"'])
        return random.choice([
            random.choice(JSON_TEXTS), text + random.choice(JSON_TEXTS), b" " + text, text + b"\0",
            b"\xef\xbb\xbf" + text, text[:at] + text[at + 1 :], text.decode().encode("utf-16"),
            text.decode().encode("utf-32"), text.replace(b": 0,", b": -0,"),
            text.replace(b": 0,", b": NaN,"),
            text.replace(b": 0,", b": 0.0,"), text.replace(b": 0,", b": 1e999,"),
            text.replace(b": 0,", b": 00,"),
            text.replace(b'"name": "', b'"name": "\\udc00', 1), text.replace(b"1", b"\xed\xa0\x80", 1),
            text.replace(b'{"', b'{"version": 1, "', 1), text.replace(b"{", b'{"shape": [1], ', 3),
            text.replace(b'"version": 1', b'"version": ' + b"1" * 5000), mangled(random, text),
        ])  # fmt: skip

    draft.on_manifest.append(bend)


@heavy
def a_huge_manifest(random: Random, draft: Draft) -> None:
    more = random.choice([
        lambda: ("post_config", json.dumps({"a": [[]] * 4_000_000})),
        lambda: ("x", [[]] * 4_000_000),
        lambda: ("x", {f"{i}": {} for i in range(700_000)}),
        lambda: ("files", {f"additional_chat_templates/{i}.jinja": "0" * 64 for i in range(200_000)}),
        lambda: ("tool", "x" * (30 * MIB)),
        lambda: ("ancestors", [0] * 3_000_000),
    ])  # fmt: skip
    if random.random() < 0.2:
        draft.tensors[0].record["shape"] = [1 << 62] * 500_000
    else:
        draft.manifest.update([more()])


@heavy
def many_records(random: Random, draft: Draft) -> None:
    """Of tensors with no elements."""
    record = {**draft.tensors[0].record, "shape": [0], "base_shape": [0]}
    count = random.choice([1000, 20_000])
    draft.tensors += [Tensor({**record, "name": f"more.{i}"}, []) for i in range(count)]
