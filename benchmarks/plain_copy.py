"""The limit: read every input and write as many bytes as the job must write, and nothing else.

    python -I -S benchmarks/plain_copy.py --read A... --read B... --write OUT --bytes N [--threads T]

As `cat A > /dev/null; cp B OUT` would, with positioned reads and writes of 1 MiB through one buffer
that stays in the cache, so that no page of memory is touched for the first time on the way. Prints
its own wall and CPU seconds as JSON, without the interpreter's start. Only the standard library.
"""

from __future__ import annotations

import argparse
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence

PIECE = 1 << 20


class Stream:
    """Files one after another, read as one."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.pieces = list(self._cut([os.open(path, os.O_RDONLY) for path in paths]))

    @staticmethod
    def _cut(files: Sequence[int]) -> Iterator[tuple[int, int]]:
        for file in files:
            for offset in range(0, os.fstat(file).st_size, PIECE):
                yield file, offset


def copy(inputs: Sequence[Stream], output: int, nbytes: int, first: int, step: int) -> None:
    """Every `step`-th piece from number `first` on: read it from each input, write it once."""
    buffer = memoryview(bytearray(PIECE))
    pieces = max(-(-nbytes // PIECE), *(len(each.pieces) for each in inputs))
    for number in range(first, pieces, step):
        for each in inputs:
            if number < len(each.pieces):
                file, offset = each.pieces[number]
                os.preadv(file, [buffer], offset)
        start = number * PIECE
        left = min(PIECE, nbytes - start)
        while left > 0:
            done = os.pwrite(output, buffer[:left], start)
            start, left = start + done, left - done


def run(options: argparse.Namespace) -> None:
    """The whole copy, on `--threads` threads."""
    inputs = [Stream(paths) for paths in options.read]
    output = os.open(options.write, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    threads = [
        threading.Thread(target=copy, args=(inputs, output, options.bytes, first, options.threads))
        for first in range(1, options.threads)
    ]
    for thread in threads:
        thread.start()
    copy(inputs, output, options.bytes, 0, options.threads)
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
