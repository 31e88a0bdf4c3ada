"""Damage to any bytes of the file: nobody mends the digests."""

from __future__ import annotations

import json
from random import Random

from tests.fuzz.draft import Draft
from tests.fuzz.mutations.registry import blunt, flipped, mangled


@blunt
def bits_flipped_anywhere(random: Random, draft: Draft) -> None:
    draft.on_file.append(lambda data: flipped(random, data, random.choice([1, 1, 2, 10])))


@blunt
def bytes_mangled_anywhere(random: Random, draft: Draft) -> None:
    draft.on_file.append(lambda data: mangled(random, data))


@blunt
def cut_off_at_a_boundary(random: Random, draft: Draft) -> None:
    def cut(data: bytes) -> bytes:
        begin = 8 + int.from_bytes(data[:8], "little")
        entries = json.loads(data[8:begin]).items()
        ends = [begin + end for n, e in entries if n != "__metadata__" for end in e["data_offsets"]]
        return data[: max(0, random.choice([0, 8, begin, *ends]) + random.choice([-1, 0, 0, 1]))]

    draft.on_file.append(cut)


@blunt
def a_length_that_lies(random: Random, draft: Draft) -> None:
    def lie(data: bytes) -> bytes:
        size = int.from_bytes(data[:8], "little")
        sizes = [
            0,
            1,
            size - 1,
            size + 1,
            size + 8,
            2 * size,
            100_000_000,
            100_000_001,
            1 << 32,
            1 << 63,
        ]
        return random.choice([*sizes, (1 << 64) - 1]).to_bytes(8, "little") + data[8:]

    draft.on_file.append(lie)


@blunt
def parts_swapped(random: Random, draft: Draft) -> None:
    """Bytes of two tensors, or of one chunk for another's, under the digests that were."""
    left, right = random.choice(draft.chunks), random.choice(draft.chunks)
    left.values, right.values = right.values, left.values
    left.rest, right.rest = right.rest, left.rest


@blunt
def digests_that_do_not_match(random: Random, draft: Draft) -> None:
    chunk = random.choice(draft.chunks)
    chunk.digests[random.randrange(len(chunk.digests))] = random.choice(
        [bytes(32), random.randbytes(32)]
    )
