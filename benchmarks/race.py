"""Contenders of one job in turn, A B C A B C …, so that a busy machine hits them all alike.

They also begin alike. A virtual machine gives free memory back to its host after two seconds, and has to
ask for it again page by page: right after another's big file was removed, a run may take half the time
that it takes after a pause.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from contenders import Contender, Job
from machine import memory_bytes
from processes import CommandFailed, Usage, run

Say = Callable[[str], object]
REST_SECONDS = 4.0  # until free memory is the host's


@dataclass(slots=True)
class Outcome:
    """What a contender took in each round, and whether what it made is right.

    ratios: its wall time in units of the limit's in the same round. differ: share of the result's
    elements with other bits than they should have. trouble: why it was left out or stopped.
    """

    name: str
    copies: bool
    usages: list[Usage] = field(default_factory=list)
    ratios: list[float] = field(default_factory=list)
    differ: float | None = None
    trouble: str | None = None


@dataclass(frozen=True, slots=True)
class Race:
    """How contenders are run: where, in which environment, and who is told what goes on."""

    folder: Path
    env: Mapping[str, str]
    say: Say

    def hold(self, job: Job, *, rounds: int, warm_up: bool) -> list[Outcome]:
        """Run every contender once a round; one that fails is left out from then on.

        Raises CommandFailed if the limit itself fails.
        """
        outcomes = [Outcome(each.name, each.copies) for each in job.contenders]
        for number in range(0 if warm_up else 1, rounds + 1):
            limit = None
            for contender, outcome in zip(job.contenders, outcomes, strict=True):
                if outcome.trouble:
                    continue
                self.say(f"{contender.name}, {f'run {number} of {rounds}' if number else 'warm-up'}")
                try:
                    usage = self._take_turn(contender, outcome, check=number == rounds)
                except CommandFailed as error:
                    if contender is job.contenders[0]:
                        raise
                    outcome.trouble = str(error)
                    continue
                limit = limit or usage.wall
                if number:
                    outcome.usages.append(usage)
                    outcome.ratios.append(usage.wall / limit)
        return outcomes

    def _take_turn(self, contender: Contender, outcome: Outcome, *, check: bool) -> Usage:
        """One run from a clean start, and the check of its result if asked for."""
        if contender.needs_bytes > (free := memory_bytes("MemAvailable")):
            raise CommandFailed(f"left out: needs {contender.needs_bytes / 1e9:.0f} GB of memory, "
                                f"{free / 1e9:.0f} GB are free")  # fmt: skip
        self._remove(contender)
        time.sleep(REST_SECONDS)
        try:
            usage = self._measure(contender)
            if check and contender.check:
                self.say(f"{contender.name}: is it right?")
                outcome.differ = self._share_that_differs(contender)
            return usage
        finally:
            self._remove(contender)

    def _measure(self, contender: Contender) -> Usage:
        total = Usage(0, 0, 0)
        for command in contender.commands:
            usage, text = run(command, folder=self.folder, env=self.env)
            if contender.times_itself:
                own = json.loads(text)
                usage = Usage(own["wall"], own["cpu"], usage.peak_bytes)
            total = total.then(usage)
        return total

    def _share_that_differs(self, contender: Contender) -> float:
        text = "{}"
        for command in contender.check:
            _, text = run(command, folder=self.folder, env=self.env)
        counts = json.loads(text)
        return float(counts["differ"] / counts["elements"])

    @staticmethod
    def _remove(contender: Contender) -> None:
        """Remove what the contender writes, and let the disk come to rest."""
        for path in contender.outputs:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        os.sync()
