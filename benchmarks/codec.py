"""How small and how fast the delta file's codec is, beside its bound and beside others.

    .venv/bin/python benchmarks/codec.py [--pair POST BASE] [--elements 4194304] [--runs 7] [--no-peers]

On one thread. GB/s are bytes of the bfloat16 delta per second of CPU, the best of several runs; the
machine may be shared. Everything that is decoded is compared.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
from codec_data import Pair, heavy, light, real  # noqa: E402
from codec_peers import PIECE, Peer, install, peers  # noqa: E402
from machine import machine  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from pipeline.codecs.chunks import ChunkCodec, encoded_bound  # noqa: E402
from pipeline.codecs.corrections import (  # noqa: E402
    corrections_bound,
    pack_corrections,
    unpack_corrections,
)
from pipeline.tensors.dtypes import BF16, F32  # noqa: E402

FAMILY = ROOT / "examples" / "family"


@dataclass(frozen=True, slots=True)
class Row:
    """One contender on one pair: bytes, and CPU seconds; NaN where it was not measured."""

    name: str
    nbytes: float
    encode: float = math.nan
    decode: float = math.nan
    note: str = ""


def best(run: Callable[[], object], runs: int) -> float:
    """The least CPU seconds, of all threads, that `run` took."""
    spent = []
    for _ in range(runs):
        begin = time.process_time()
        run()
        spent.append(time.process_time() - begin)
    return min(spent)


def bound(pair: Pair) -> Row:
    """The order-0 entropy of each chunk's values, which no code of single values can beat."""
    bits = 0.0
    for chunk in pair.stored:
        counts = np.unique(chunk.view("<u2"), return_counts=True)[1]
        bits += float(counts @ np.log2(counts.sum() / counts))
    return Row("order-0 entropy (bound)", bits / 8)


def ours(pair: Pair, runs: int, *, vectors: bool) -> Row:
    """Our codec, chunk by chunk, into reused buffers."""
    codec = ChunkCodec(vectors=vectors)
    packed = [np.empty(encoded_bound(len(chunk)), np.uint8) for chunk in pair.stored]
    again = [np.empty_like(chunk) for chunk in pair.stored]
    sizes = [0] * len(packed)

    def encode() -> None:
        for k, chunk in enumerate(pair.stored):
            sizes[k] = codec.encode(chunk, 2, packed[k])

    def decode() -> None:
        for size, payload, out in zip(sizes, packed, again, strict=True):
            codec.decode(payload[:size], 2, out)

    seconds = best(encode, runs), best(decode, runs)
    assert all(map(np.array_equal, again, pair.stored))
    return Row("ours" if vectors else "ours without AVX-512", sum(sizes), *seconds)


def corrections(pair: Pair, runs: int) -> Row:
    """What makes the delta exact, packed."""
    codec = ChunkCodec()
    packed = [np.empty(corrections_bound(each), np.uint8) for each in pair.corrections]
    sizes = [0] * len(packed)

    def encode() -> None:
        for k, each in enumerate(pair.corrections):
            sizes[k] = pack_corrections(each, packed[k], codec)

    def decode() -> None:
        for size, payload, chunk in zip(sizes, packed, pair.stored, strict=True):
            unpack_corrections(
                payload[:size], elements=len(chunk) // 2, width=F32, post=BF16, codec=codec, where=""
            )

    seconds = best(encode, runs), best(decode, runs)
    share = sum(len(each.rest_at) for each in pair.corrections) / (len(pair.post) / 2)
    note = f"{share:.2%} of elements, {sum(sizes) / len(pair.post):.2%} of the bytes"
    seconds = seconds if sum(sizes) else (math.nan, math.nan)
    return Row("ours: the corrections", sum(sizes), *seconds, note)


def measure(peer: Peer, pair: Pair, runs: int) -> Row:
    """A peer on the delta in large pieces, or on both sides whole."""
    if peer.exact:
        pack, unpack = peer.exact
        packed = pack(pair.post, pair.base)
        seconds = [best(lambda: pack(pair.post, pair.base), 2), math.nan]
        if isinstance(packed, bytes):
            assert bytes(unpack(packed, pair.base)) == pair.post
            seconds[1] = best(lambda: unpack(packed, pair.base), 2)
        return Row(peer.name, len(packed), *seconds)
    encode, decode, data = peer.encode, peer.decode, pair.delta
    if encode is None or decode is None:
        return Row(peer.name, math.nan, note=peer.note)
    pieces = [data[start : start + PIECE] for start in range(0, len(data), PIECE)]
    encoded = [encode(piece) for piece in pieces]
    assert [bytes(decode(each)) for each in encoded] == pieces
    return Row(
        peer.name,
        sum(map(len, encoded)),
        best(lambda: [encode(piece) for piece in pieces], min(runs, 3)),
        best(lambda: [decode(each) for each in encoded], min(runs, 3)),
    )


def rows(pair: Pair, others: list[Peer], runs: int) -> Iterator[Row]:
    """All contenders, ours first."""
    yield bound(pair)
    yield ours(pair, runs, vectors=True)
    yield ours(pair, runs, vectors=False)
    yield corrections(pair, runs)
    for peer in others:
        try:
            yield measure(peer, pair, runs)
        except Exception as error:  # a peer's trouble is a line of the report
            yield Row(peer.name, math.nan, note=f"{type(error).__name__}: {error}"[:60])


def show(pair: Pair, found: list[Row]) -> Table:
    """One pair's rows as a table."""
    total, least = len(pair.post), found[0].nbytes
    table = Table(title=f"{pair.name}: {total / 2**20:.1f} MiB, {len(pair.stored)} chunks")
    for heading in ("codec", "ratio", "bits an element", "over the bound", "GB/s in", "GB/s out", ""):
        table.add_column(heading, justify="left" if heading in ("codec", "") else "right")

    def text(value: float, form: str) -> str:
        return "" if math.isnan(value) else format(value, form)

    for row in found:
        beside = row.name.endswith("corrections")
        table.add_row(
            row.name,
            "" if beside else text(total / row.nbytes, ".3f"),
            text(16 * row.nbytes / total, ".3f"),
            "" if beside else text(row.nbytes / least - 1, "+.1%"),
            text(total / row.encode / 1e9, ".2f"),
            text(total / row.decode / 1e9, ".2f"),
            row.note,
        )
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description="Compare the delta file's codec with its bound and peers."
    )
    parser.add_argument(
        "--pair", nargs=2, type=Path, metavar=("POST", "BASE"), action="append", default=[]
    )
    parser.add_argument("--elements", type=int, default=1 << 22, help="of each pair at most")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "bench")
    options = parser.parse_args()
    others: list[Peer] = []
    if options.peers:
        install(options.work / "codec-peers")
        others = list(peers())
    console = Console(width=150)
    for name, fact in machine().items():
        console.print(f"{name}: {fact}")
    pairs = [lambda: heavy(options.elements), lambda: light(options.elements)]
    folders = options.pair or [(FAMILY / "post-v1", FAMILY / "base-v1")]
    pairs += [lambda p=post, b=base: real(p, b, options.elements) for post, base in folders]
    for make in pairs:
        pair = make()
        console.print(show(pair, list(rows(pair, others, options.runs))))


if __name__ == "__main__":
    main()
