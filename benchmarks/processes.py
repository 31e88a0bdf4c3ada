"""Run whole processes and say what they used: wall seconds, CPU seconds, peak memory.

This process stays small, for on Linux a child's peak memory is never below that of the process that
started it: everything that imports numpy or torch runs as a child.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Command = Sequence[str | Path]


class CommandFailed(Exception):
    """A command ended with an error; says the end of what it printed."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one run took."""

    wall: float
    cpu: float
    peak_bytes: int

    def then(self, other: Usage) -> Usage:
        """One run after another."""
        peak = max(self.peak_bytes, other.peak_bytes)
        return Usage(self.wall + other.wall, self.cpu + other.cpu, peak)


def run(command: Command, *, folder: Path, env: Mapping[str, str]) -> tuple[Usage, str]:
    """Run a command in `folder` to its end; returns what it used and what it printed.

    Raises CommandFailed.
    """
    log = folder / "last-command.log"
    with log.open("wb") as printed:
        begin = time.perf_counter()
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=dict(env),
        )
        try:
            _, status, spent = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)  # it has been waited for
    text = log.read_text(errors="replace")
    if process.returncode:
        end = "\n".join(text.splitlines()[-15:])
        raise CommandFailed(f"{Path(command[0]).name} ended with {process.returncode}:\n{end}")
    return Usage(wall, spent.ru_utime + spent.ru_stime, spent.ru_maxrss * 1024), text
