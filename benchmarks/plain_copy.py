"""The limit: read every input and write as many bytes as the job must write, and nothing else.

    python -I -S benchmarks/plain_copy.py --read A... --read B... --write OUT --bytes N [--threads T]

As `cat A > /dev/null; cp B OUT` would: positioned reads and writes through one buffer that begins on a
page and stays in the cache, so that no page of memory is touched for the first time on the way and the
kernel copies between aligned addresses. Prints its own wall and CPU seconds as JSON, without the
interpreter's start. Only the standard library.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import threading
import time
from collections.abc import Sequence

PIECE = 1 << 18

Piece = tuple[int, int]  # an open file, and an offset in it


def pieces(paths: Sequence[str]) -> list[Piece]:
    """All bytes of some files, a piece at a time."""
    files = [os.open(path, os.O_RDONLY) for path in paths]
    return [(file, offset) for file in files for offset in range(0, os.fstat(file).st_size, PIECE)]


def copy(inputs: Sequence[Sequence[Piece]], output: int, nbytes: int, first: int, step: int) -> None:
    """Read every `step`-th piece from number `first` on, and write those of the last input.

    Where the output is longer than that input, the rest is whatever the buffer holds.
    """
    buffer = memoryview(mmap.mmap(-1, PIECE))
    *others, last = inputs
    for other in others:
        for file, offset in other[first::step]:
            os.preadv(file, [buffer], offset)
    for number in range(first, max(len(last), -(-nbytes // PIECE)), step):
        if number < len(last):
            os.preadv(last[number][0], [buffer], last[number][1])
        start = number * PIECE
        write(output, buffer[: max(0, min(PIECE, nbytes - start))], start)


def write(file: int, data: memoryview, offset: int) -> None:
    """Write all of `data`."""
    while data:
        done = os.pwrite(file, data, offset)
        data, offset = data[done:], offset + done


def run(options: argparse.Namespace) -> None:
    """The whole copy, on `--threads` threads."""
    inputs = [pieces(paths) for paths in options.read]
    output = os.open(options.write, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    threads = [
        threading.Thread(target=copy, args=(inputs, output, options.bytes, first, options.threads))
        for first in range(options.threads)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if options.fsync:
        os.fsync(output)
    os.close(output)


def main() -> None:
    """Parse, copy, print the seconds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--read", nargs="+", action="append", required=True)
    parser.add_argument("--write", required=True)
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--fsync", action="store_true")
    options = parser.parse_args()
    wall, cpu = time.perf_counter(), time.process_time()
    run(options)
    print(json.dumps({"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
