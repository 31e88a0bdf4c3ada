"""Which method puts deltas together, with its figures, checked in one place."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, Self, TypedDict

from pipeline.errors import UsageError
from pipeline.operations.fusion.methods import METHODS, Drop, Method
from pipeline.operations.fusion.selection import Selection

DENSITY, LAMBDA, EPSILON, GAMMA = 1.0, 1.0, 0.15, 0.01  # mergekit's own defaults
_LARGEST_SEED = 2**64 - 1


class Fusing(TypedDict, total=False):
    """Options of what several deltas come to; see docs/fusion.md for the methods.

    method: a name of `METHODS`. density: the part of each delta's elements that is kept. lambda_: what
    the sum is multiplied by before it is added. seed: of the random choice of elements. epsilon: of
    della, how far chances are from `density`. gamma: of breadcrumbs, the part of the largest elements
    that is left out. scale_for: pairs of a pattern and a factor, or "PATTERN=FACTOR": what is added to a
    tensor whose name matches is multiplied by it; the last that matches counts; "layers:0-7" stands for
    these layers. only, skip: patterns of names of tensors that alone are added to, or that keep the new
    base's values. Patterns are RE2's, found anywhere in the name.
    """

    method: str
    density: float | None
    lambda_: float | None
    seed: int | None
    epsilon: float | None
    gamma: float | None
    scale_for: str | Sequence[str | tuple[str, float]] | None
    only: str | Sequence[str] | None
    skip: str | Sequence[str] | None


@dataclass(frozen=True)
class Fusion:
    """A method and its figures, which mean something together, and where deltas are added."""

    method: str = "linear"
    density: float = DENSITY
    lambda_: float = LAMBDA
    seed: int = 0
    epsilon: float = EPSILON
    gamma: float = GAMMA
    selection: Selection = field(default_factory=Selection)

    @classmethod
    def take(cls, options: Mapping[str, Any], scales: Sequence[float]) -> tuple[Self, Any]:
        """The fusion of deltas with these scales that `options` ask for, and the other options.

        Raises UsageError with everything that is wrong.
        """
        problems: list[str] = []
        found = cls.parse(options, problems, scales)
        if problems:
            raise UsageError(
                "; ".join(problems), where="--method", hint="docs/fusion.md says what is what"
            )
        return found, {n: value for n, value in options.items() if n not in Fusing.__annotations__}

    @classmethod
    def parse(
        cls, options: Mapping[str, Any], problems: list[str], scales: Sequence[float] | None = None
    ) -> Self:
        """The fusion that `options` ask for. What is wrong with it is appended to `problems`.

        scales: of its deltas, None if they are not known yet.
        """
        ours = {name: options.get(name) for name in Fusing.__annotations__}
        given = {name: value for name, value in ours.items() if value is not None}
        patterns = {name: given.pop(name) for name in ("only", "skip", "scale_for") if name in given}
        found = cls(**given, selection=Selection.parse(problems, **patterns))
        if found.method not in METHODS:
            problems.append(f"{found.method!r} is not a method: use one of {', '.join(METHODS)}")
            return found
        problems += found._problems(given.keys())
        if scales is not None:
            problems += found._problems_of(scales)
        return found

    @property
    def kind(self) -> Method:
        """What its method does."""
        return METHODS[self.method]

    @property
    def is_plain(self) -> bool:
        """Whether it is the sum of the scaled deltas, on every tensor."""
        return self == Fusion()

    @property
    def thins(self) -> bool:
        """Whether elements are left out at all."""
        return self.kind.drops is not Drop.NONE and self.density < 1

    @property
    def surveys(self) -> bool:
        """Whether something of whole tensors must be known before any of their chunks can be done."""
        return self.thins or self.kind.by_angles

    def described(self) -> dict[str, Any]:
        """Everything that the result depends on, for the report and for JSON."""
        figures = {name.rstrip("_"): getattr(self, name) for name in sorted(_figures(self.kind))}
        return {"method": self.method, **figures, **self.selection.described()}

    def _problems(self, given: Set[str]) -> list[str]:
        """Those of the figures, of which some are given."""
        kind, used = self.kind, _figures(self.kind)
        unused = sorted(name.rstrip("_") for name in given - {"method"} - used)
        problems = [f"{self.method} has no {name}" for name in unused]
        if not 0 < self.density <= 1:
            problems.append(f"density {self.density} is not above 0 and up to 1")
        elif kind.drops is Drop.RANKED and self.thins and not self._has_chances:
            problems.append("density - epsilon and density + epsilon must be between 0 and 1")
        if not math.isfinite(self.lambda_):
            problems.append("lambda must be a finite number")
        if not 0 <= self.seed <= _LARGEST_SEED:
            problems.append("a seed is from 0 to 2^64 - 1")
        if not 0 <= self.gamma < 1:
            problems.append(f"gamma {self.gamma} is not from 0 to below 1")
        return problems

    def _problems_of(self, scales: Sequence[float]) -> list[str]:
        kind = self.kind
        if not kind.least <= len(scales) <= (kind.most or len(scales)):
            most = f" to {kind.most}" if kind.most else " or more"
            return [f"{self.method} takes {kind.least}{most} deltas, not {len(scales)}"]
        if self.method == "slerp" and not _is_between(scales):
            return ["slerp needs a scale from 0 to 1, or two that are not negative nor both 0"]
        return []

    @property
    def _has_chances(self) -> bool:
        return self.epsilon >= 0 and self.density > self.epsilon and self.density + self.epsilon < 1


def _figures(kind: Method) -> set[str]:
    """The figures that mean something to a method."""
    drops = kind.drops
    random = drops in (Drop.RANDOM, Drop.RANKED)
    used = {
        "density": drops is not Drop.NONE,
        "lambda_": not kind.by_angles,
        "seed": random,
        "epsilon": drops is Drop.RANKED,
        "gamma": drops is Drop.OUTLIERS,
    }
    return {name for name, is_used in used.items() if is_used}


def _is_between(scales: Sequence[float]) -> bool:
    return min(scales) >= 0 and (sum(scales) > 0 if len(scales) == 2 else scales[0] <= 1)
