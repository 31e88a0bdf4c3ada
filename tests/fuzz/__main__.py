"""Feed hostile deltas to open, inspect, verify and apply.

    python -m tests.fuzz --count 20000 --seed 1
    python -m tests.fuzz --only 4711 --seed 1 --keep .     # this one alone, and keep the file

Every file that does what it should not is kept in build/fuzz. Exits with 1 if there was one.
"""

from __future__ import annotations

import argparse
import faulthandler
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.fuzz.corpus import HEAVY_SHARE, Corpus
from tests.fuzz.watch import Watch

HANG = 120  # seconds until a stuck run says where, and ends


def gist(message: str) -> str:
    """A message without what is different each time."""
    text = re.sub(r"""^\S+: |'.*?'(?=[ ,:;]|$)|".*?"(?=[ ,:;]|$)""", "_", message)
    return re.sub(r"\d+", "0", text)[:110]


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    options.add_argument("--count", type=int, default=20_000)
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--only", type=int, help="number of one case to run and keep")
    options.add_argument("--heavy", type=float, default=HEAVY_SHARE, help="share of large files")
    options.add_argument("--messages", action="store_true", help="show how often what was said")
    options.add_argument("--keep", type=Path, default=Path("build/fuzz"))
    given = options.parse_args()
    numbers = range(given.first, given.first + given.count)
    if given.only is not None:
        numbers = range(given.only, given.only + 1)
    results: Counter[str] = Counter()
    messages: Counter[str] = Counter()
    only_theirs: Counter[str] = Counter()
    faults, slowest, largest, began = 0, (0.0, ""), (0, ""), time.monotonic()
    with tempfile.TemporaryDirectory() as place:
        corpus = Corpus(Path(place) / "sound", given.seed, heavy=given.heavy)
        watch = Watch(Path(place), corpus)
        for case in corpus.sound():
            outcome = watch.run(case)
            assert outcome.result == "applied" and not outcome.faults, outcome.faults
        for number in numbers:
            faulthandler.dump_traceback_later(HANG, exit=True)
            case = corpus.case(number)
            outcome = watch.run(case)
            results[outcome.result] += 1
            messages[gist(outcome.message)] += 1
            only_theirs[gist(outcome.header)] += outcome.header.startswith("theirs: ")
            slowest = max(slowest, (outcome.seconds, f"{number} {case.name}"))
            largest = max(largest, (outcome.memory, f"{number} {case.name}"))
            for fault in outcome.faults:
                print(f"{number} {case.name}: {fault}", flush=True)
            if outcome.faults or given.only is not None:
                faults += bool(outcome.faults)
                given.keep.mkdir(parents=True, exist_ok=True)
                (given.keep / f"{given.seed}-{number}.safetensors").write_bytes(case.data)
        faulthandler.cancel_dump_traceback_later()
    print(f"{len(numbers)} files in {time.monotonic() - began:.0f} s, {faults} with faults")
    print("  " + ", ".join(f"{count} {result}" for result, count in results.most_common()))
    print(f"  slowest {slowest[0]:.2f} s ({slowest[1]})")
    print(f"  largest {largest[0] >> 20} MiB ({largest[1]})")
    if given.messages:
        print(*(f"  {count:6} {text}" for text, count in messages.most_common()), sep="\n")
        print("  headers that the safetensors library accepts, and why we do not:")
        print(*(f"  {n:6} {text}" for text, n in only_theirs.most_common() if n), sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
