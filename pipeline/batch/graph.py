"""Which step needs which, and the order that follows. Knows ids only."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.errors import UsageError


@dataclass(frozen=True, slots=True)
class Graph:
    """Steps by id, in the order of the config, each with the ids of the steps that it needs.

    Every id that is needed is a key. A graph with cycles can be looked at, but has no order.
    """

    needs: Mapping[str, Sequence[str]]

    def order(self) -> list[str]:
        """All ids, each after those it needs; otherwise in the order of the config.

        Raises UsageError if there is a cycle.
        """
        ordered = self._reachable(frozenset())
        if len(ordered) < len(self.needs):
            shown = "; ".join(show_cycle(cycle) for cycle in self.cycles())
            raise UsageError(f"steps need each other: {shown}")
        return ordered

    def select(self, only: str | None) -> list[str]:
        """The ids to run, in order: all of them, or just `only`, whose needs are taken to be there.

        Raises UsageError if no step is called `only`.
        """
        if only is None:
            return self.order()
        if only not in self.needs:
            known = ", ".join(self.needs)
            raise UsageError(f"no step is called {only!r}", hint=f"the config has: {known}")
        return [only]

    def cycles(self) -> list[list[str]]:
        """Cycles, so that every step that can't run is in one or needs one; none if all can.

        Each begins with its first step in the order of the config.
        """
        found: list[list[str]] = []
        cut: frozenset[str] = frozenset()  # members of found cycles, as if they had run
        position = {name: number for number, name in enumerate(self.needs)}
        while True:
            done = {*self._reachable(cut), *cut}
            stuck = [name for name in self.needs if name not in done]
            if not stuck:
                return found
            # Each stuck step needs another one, so following them must come round.
            walked: dict[str, None] = {}
            at = stuck[0]
            while at not in walked:
                walked[at] = None
                at = next(name for name in self.needs[at] if name not in done)
            names = list(walked)
            cycle = names[names.index(at) :]
            first = cycle.index(min(cycle, key=position.__getitem__))
            found.append(cycle[first:] + cycle[:first])
            cut = cut | frozenset(cycle)

    def _reachable(self, ready: frozenset[str]) -> list[str]:
        """The steps that can run, in order, if those of `ready` need not."""
        names = list(self.needs)
        waiting: dict[str, int] = {}
        needed_by: dict[str, list[int]] = {name: [] for name in names}
        for number, name in enumerate(names):
            if name in ready:
                continue
            needs = set(self.needs[name]) - ready
            waiting[name] = len(needs)
            for need in needs:
                needed_by[need].append(number)
        heap = [n for n, name in enumerate(names) if waiting.get(name) == 0]
        ordered: list[str] = []
        while heap:
            name = names[heapq.heappop(heap)]
            ordered.append(name)
            for number in needed_by[name]:
                waiting[names[number]] -= 1
                if waiting[names[number]] == 0:
                    heapq.heappush(heap, number)
        return ordered


def show_cycle(cycle: Sequence[str]) -> str:
    """A cycle as people read it, from what needs to what is needed: a → b → a."""
    return " → ".join((*cycle, cycle[0]))
