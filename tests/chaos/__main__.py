"""Compute into a container and apply out of it through a network that fails, many times.

    python -m tests.chaos --runs 500 --seed 1 --rate 0.05
    python -m tests.chaos --profile throttled --runs 50
    python -m tests.chaos --seed 1 --only 217              # this one alone, and say what happened

Exits with 1 if a run ends in anything but exact bytes or one clear error with nothing published.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.chaos.profiles import PROFILES
from tests.chaos.runs import Chaos, Outcome

RESULTS = ("succeeded", "failed clearly", "wrong", "hung")


def table(outcomes: list[Outcome]) -> str:
    """Runs by how they ended, for each kind of fault that they met."""
    kinds = Counter(kind for outcome in outcomes for kind in outcome.faults.elements())
    lines = [f"{'fault':32}{'times':>7}" + "".join(f"{result:>16}" for result in RESULTS)]
    for kind, times in [*sorted(kinds.items()), ("all runs", sum(kinds.values()))]:
        met = [outcome for outcome in outcomes if kind in outcome.faults or kind == "all runs"]
        counts = Counter(outcome.result for outcome in met)
        lines.append(f"{kind:32}{times:7}" + "".join(f"{counts[result]:16}" for result in RESULTS))
    return "\n".join(lines)


def tell(outcome: Outcome, *, everything: bool) -> None:
    """Print what is to be known of one run."""
    texts = [*outcome.wrong, *(f"{what} hung" for what in outcome.hung), *outcome.errors]
    if texts or everything:
        print(
            f"{outcome.number} {outcome.result}: {'; '.join(texts)} {dict(outcome.faults)}", flush=True
        )
    if everything:
        print(*outcome.traces, sep="\n")


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    options.add_argument("--runs", type=int, default=500)
    options.add_argument("--first", type=int, default=0)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--rate", type=float, help="share of requests that meet a fault")
    options.add_argument("--profile", choices=PROFILES, default="wire")
    options.add_argument("--only", type=int, help="number of one run to repeat")
    given = options.parse_args()
    numbers = range(given.first, given.first + given.runs)
    if given.only is not None:
        numbers = range(given.only, given.only + 1)
    profile, outcomes, began = PROFILES[given.profile], list[Outcome](), time.monotonic()
    with (
        tempfile.TemporaryDirectory() as place,
        Chaos(Path(place), given.seed) as chaos,
    ):
        for number in numbers:
            outcome = chaos.run(number, profile, given.rate)
            outcomes.append(outcome)
            tell(outcome, everything=given.only is not None)
    counts = Counter(outcome.result for outcome in outcomes)
    requests = sum(outcome.requests for outcome in outcomes)
    print(table(outcomes))
    print(f"{len(outcomes)} runs, {requests} requests, in {time.monotonic() - began:.0f} s")
    print(f"slowest {max(outcome.seconds for outcome in outcomes):.1f} s")
    enough = counts["succeeded"] >= profile.successes * len(outcomes)
    return 0 if enough and not counts["wrong"] and not counts["hung"] else 1


if __name__ == "__main__":
    sys.exit(main())
