"""Processes that cost a fork: children of a program in which everything is imported and compiled.

A command then takes tens of milliseconds instead of the second in which Python starts, and a kill after
30 ms meets the work and not the start-up. `forked.py` is that program.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PROGRAM = Path(__file__).with_name("forked.py")
CAP_S = 60.0
STREAMS = ("stdout", "stderr")

# What makes small models behave as large ones do, and quickly: many blocks, short waits.
SMALL_AND_QUICK = {
    "pipeline.storage.azure.writing.BLOCK_BYTES": 128 << 10,
    "pipeline.storage.azure.reading.RANGE_BYTES": 128 << 10,
    "pipeline.storage.retry.FIRST_WAIT_S": 0.01,
    "pipeline.storage.retry.LONGEST_WAIT_S": 0.1,
    "pipeline.storage.azure.publishing.SMALL_BYTES": 32 << 10,
}

Words = Sequence[str]


@dataclass(frozen=True, slots=True)
class Done:
    """How one child ended. code: its exit code, None if it had to be killed after the time it had."""

    code: int | None
    seconds: float
    output: str
    errors: str


class Forks:
    """The program, from `with` until its end, and its children; what they print is kept in `folder`.

    warm_up: commands that compile and load what later ones need; they may not touch the network.
    env: what its environment has besides this process's. values: what is set in it, by dotted name.
    hub: the Hub is the one that `env` names, and is known from the start; waiting for it is short.
    """

    def __init__(
        self,
        folder: Path,
        warm_up: Sequence[Words],
        env: Mapping[str, str] | None = None,
        *,
        values: Mapping[str, float] | None = None,
        hub: bool = False,
    ) -> None:
        self._folder = folder
        with (folder / "warm-up").open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, PROGRAM, json.dumps([dict(values or {}), hub])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **(env or {})},
            )
        assert self._process.stdin
        self._process.stdin.write("".join(json.dumps(words) + "\n" for words in warm_up) + "\n")

    def run(
        self,
        *words: str,
        cap_s: float = CAP_S,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run `cli.py` with these words; `env` is the whole environment, if it is given."""
        where = {"cwd": str(cwd) if cwd else None, "env": dict(env) if env is not None else None}
        return self._order([{"words": words, **where}], cap_s)[0]

    def race(self, commands: Sequence[Words]) -> list[Done]:
        """Run `cli.py` with each of these, all at once."""
        return self._order([{"words": words} for words in commands], CAP_S)

    def call(
        self,
        name: str,
        *arguments: Any,
        after: float | None = None,
        step: int | None = None,
        commit: int | None = None,
        **options: Any,
    ) -> Done:
        """Call that function of `pipeline`, in this process's environment.

        Its process is killed `after` seconds, or before file step or Azure commit number n; else not.
        The code is then -9.
        """
        job = {"call": [name, arguments, options], "step": step, "commit": commit, "after": after}
        job["env"] = dict(os.environ)
        return self._order([job], CAP_S)[0]

    def _order(self, jobs: list[dict[str, Any]], cap_s: float) -> list[Done]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([jobs, cap_s]) + "\n")
        self._process.stdin.flush()
        reply = self._process.stdout.readline()
        assert reply, (self._folder / "warm-up").read_text()
        return [
            Done(code, seconds, *((self._folder / f"{name}-{at}").read_text() for name in STREAMS))
            for at, (code, seconds) in enumerate(json.loads(reply))
        ]

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()
