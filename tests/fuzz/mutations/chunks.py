"""Index, digests, encoded chunks and corrections."""

from __future__ import annotations

import struct
from random import Random

import numpy as np
from blake3 import blake3

from tests.fuzz.draft import CHUNK, Draft, Tensor
from tests.fuzz.mutations.registry import MIB, NUMBERS, flipped, heavy, mangled, mutation


@mutation
def an_index_that_lies(random: Random, draft: Draft) -> None:
    parts = [p for c in draft.chunks for p in ((c.values, c.rest) if draft.packed else (c.rest,))]
    index = [0, *np.cumsum([len(part) for part in parts]).tolist()]
    at = random.randrange(len(index))
    match random.randrange(7):
        case 0:
            index[at] = random.choice(
                [number for number in NUMBERS if type(number) is int and 0 <= number < 1 << 64]
            )
        case 1:
            index[at] = max(0, index[at] + random.choice([-1, 1, -8, 8]))
        case 2:
            random.shuffle(index)
        case 3:
            index = [0] * (len(index) - 1) + [index[-1]]
        case 4:
            index = [index[-1]] * len(index)
        case 5:
            index = index[:at] + index[at + 1 :]
        case _:
            index.append(index[-1])
    draft.index = index


@mutation
def digests_of_other_chunks(random: Random, draft: Draft) -> None:
    """Base's or post's: they fold as the forger says, but are of something else."""
    chunk, other = random.choice(draft.chunks), random.choice(draft.chunks)
    side = random.randrange(2)
    chunk.digests[side] = random.choice([other.digests[side], bytes(32), random.randbytes(32)])


@mutation
def too_few_or_too_many_digests(random: Random, draft: Draft) -> None:
    chunk = random.choice(draft.chunks)
    if random.random() < 0.5:
        chunk.digests.pop()
    else:
        chunk.digests.append(bytes(32))


HEADER = struct.Struct("<BHIHI")


def rans_with_other_fields(random: Random, payload: bytes) -> bytes:
    """An entropy-coded chunk whose header, table, words or states lie."""
    if len(payload) < 1 + HEADER.size:
        return b"\2" + payload
    fields, rest = list(HEADER.unpack_from(payload, 1)), payload[1 + HEADER.size :]
    which = random.randrange(6)
    if which < 5:
        limit = [255, 65535, (1 << 32) - 1, 65535, (1 << 32) - 1][which]
        fields[which] = random.choice(
            [0, 1, 64, 65, limit, fields[which] ^ 1, (fields[which] + 1) & limit]
        )
        fields[which] = min(fields[which], limit)
    else:
        rest = mangled(random, rest)
    return b"\2" + HEADER.pack(*fields) + rest


def encoded(random: Random, payload: bytes, others: list[bytes]) -> bytes:
    """Bytes in place of an encoded chunk."""
    size = random.choice([0, 1, 5, 100, (1 << 32) - 1, 1 << 31])
    return random.choice([
        b"", b"\0", b"\1", b"\2", b"\3", b"\4", b"\xff" * 9, payload[1:], payload + b"\0",
        mangled(random, payload),
        bytes([random.randrange(5)]) + payload[1:], random.choice(others), b"\1" + random.randbytes(2),
        b"\3" + size.to_bytes(4, "little") + payload[1:], b"\3\0\0\0\0" * 50_000, b"\3" * 200_000,
        rans_with_other_fields(random, payload), rans_with_other_fields(random, payload),
        flipped(random, payload, 2, reach=16), flipped(random, payload, 1),
    ])  # fmt: skip


@mutation
def values_that_mean_nothing(random: Random, draft: Draft) -> None:
    chunk = random.choice(draft.chunks)
    chunk.values = encoded(random, chunk.values, [other.values for other in draft.chunks])


@mutation
def coded_values_that_mean_nothing(random: Random, draft: Draft) -> None:
    coded = [chunk for chunk in draft.chunks if chunk.values[:1] in (b"\2", b"\3")]
    if not draft.packed or not coded:
        values_that_mean_nothing(random, draft)
        return
    chunk = random.choice(coded)
    if chunk.values[:1] == b"\2":
        chunk.values = rans_with_other_fields(random, chunk.values)
    else:  # a part of a split one
        size = int.from_bytes(chunk.values[1:5], "little")
        low, high = chunk.values[5 : 5 + size], chunk.values[5 + size :]
        low = encoded(random, low, [high])
        chunk.values = b"\3" + len(low).to_bytes(4, "little") + low + high


def lists(random: Random, elements: int, width: int, post: int, *, packed: bool) -> bytes:
    """Corrections, sound or nearly so."""
    counts = [random.choice([0, 1, 2, 5, min(elements, 300)]) for _ in range(2)]
    if random.random() < 0.2:
        counts[random.randrange(2)] = random.choice([1 << 31, (1 << 32) - 1, elements + 1, 1 << 20])
    written = [min(count, 300) for count in counts]
    data = struct.pack("<II", *counts)
    for count, size in zip(np.repeat(written, 2).tolist(), (4, width, 4, post), strict=True):
        if size == 4 and random.random() < 0.7:
            numbers = sorted(random.choices(range(elements + 2), k=count))
            part = np.array(numbers, "<u4").tobytes()
        else:
            part = random.randbytes(count * size)
        if packed:
            part = random.choice([b"\0" + part, b"\0" + part, b"\1", b"\1" + part[:size], part])
            part = b"" if not count and random.random() < 0.9 else part
            data += (len(part) + random.choice([0] * 9 + [1])).to_bytes(4, "little")
        data += part
    return data


@mutation
def other_corrections(random: Random, draft: Draft) -> None:
    tensor = random.choice([tensor for tensor in draft.tensors if tensor.chunks])
    chunk = random.choice(tensor.chunks)
    elements = min(CHUNK, int(np.prod(tensor.record["shape"])))
    width = 8 if "F64" in (tensor.record["base"], tensor.record["post"]) else 4
    post = {"BF16": 2, "F16": 2, "F32": 4}.get(tensor.record["post"], 8)
    made = lists(random, elements, width, post, packed=draft.packed)
    chunk.rest = random.choice(
        [made, made, made, mangled(random, made), mangled(random, chunk.rest), bytes(8)]
    )


@mutation
def corrections_mangled(random: Random, draft: Draft) -> None:
    chunk = random.choice([chunk for chunk in draft.chunks if chunk.rest] or draft.chunks)
    chunk.rest = random.choice([mangled(random, chunk.rest), flipped(random, chunk.rest, 2, reach=24)])


@mutation
def a_part_that_is_too_long(random: Random, draft: Draft) -> None:
    chunk = random.choice(draft.chunks)
    size = random.choice([100, 10_000, 3 * MIB])
    if random.random() < 0.5:
        chunk.values += bytes(size)
    else:
        chunk.rest += bytes(size)


@heavy
def a_large_tensor_of_one_value(random: Random, draft: Draft) -> None:
    """Hundreds of megabytes in a few kilobytes: sound, but for what base it could have."""
    count = random.choice([1, 20, 150]) * CHUNK
    form = random.choice(["BF16", "F64"])
    size = 2 if form == "BF16" else 8
    tensor = next(tensor for tensor in draft.tensors if tensor.chunks)
    record = {**tensor.record, "name": "large", "stored": form, "base": form, "post": form}
    record |= {"shape": [count], "base_shape": [count]}
    if not draft.packed:
        count = CHUNK
        record |= {"shape": [count], "base_shape": [count]}
    value = random.choice([b"", random.randbytes(size)])
    zeros = bytes(size * CHUNK)
    content = value * CHUNK if value else zeros
    chunk = tensor.chunks[0]
    one = type(chunk)(b"\1" + value if draft.packed else content, b"", [blake3(zeros).digest()] * 2)
    one.digests += [blake3(content).digest()] + ([b""] if draft.packed else [])
    more = [type(chunk)(one.values, b"", list(one.digests)) for _ in range(count // CHUNK)]
    draft.tensors.append(Tensor(record, more))
