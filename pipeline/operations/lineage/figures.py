"""What is said of a new base's lineage: figures, and the tensors that they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# Between what is measured of unrelated models (at most 0.06) and of relatives: docs/fidelity-lineage.md.
LEAST_COSINE = 0.25
_LAYERS_SHOWN = 4  # whose experts are elsewhere
MOST_RATIO = 4.0  # of norms, either way: all there is for deltas that keep no sample

Basis = Literal["sample", "norms", "nothing"]


@dataclass(frozen=True, slots=True)
class Extreme:
    """A tensor, and a figure that stands out among those of all tensors."""

    tensor: str
    value: float

    def __str__(self) -> str:
        """As people read it."""
        return f"{self.value:.4g}  {self.tensor}"


@dataclass(frozen=True, slots=True)
class Lineage:
    """How a new base stands to the base of one delta, by a few values of each.

    basis: what was compared: a sample of the delta's base, the norms of its tensors, or nothing that
    tells. tensors: how many. cosine, distance, ratio: medians over them, of the centred cosine, of
    |new - old| / |old|, of |new| / |old|. lowest: the tensor with the lowest cosine. routers: of a
    mixture of experts, how many were compared. moved: the experts that are found elsewhere, a line for
    each layer.
    """

    basis: Basis
    tensors: int = 0
    cosine: float | None = None
    distance: float | None = None
    ratio: float | None = None
    lowest: Extreme | None = None
    routers: int = 0
    moved: Sequence[str] = ()

    @property
    def problems(self) -> list[str]:
        """Why the base seems unrelated, and which experts are elsewhere; none if all is well."""
        found = [self._strange] if self._strange else []
        if self.moved:
            found.append(f"experts are in another order: {self._moved}")
        return found

    @property
    def _moved(self) -> str:
        more = len(self.moved) - _LAYERS_SHOWN
        return "; ".join(self.moved[:_LAYERS_SHOWN]) + (f"; and in {more} more layers" * (more > 0))

    @property
    def _strange(self) -> str | None:
        if self.cosine is not None and self.cosine < LEAST_COSINE:
            return (
                f"the cosine between it and the delta's own base is {self.cosine:.3f}, the median of "
                f"{self.tensors} tensors, and {LEAST_COSINE} is the least of a relative"
            )
        if self.cosine is None and self.ratio is not None and not _is_near(self.ratio):
            return (
                f"its weights are {self.ratio:.3g} times those of the delta's own base in size, the "
                f"median of {self.tensors} tensors, and {MOST_RATIO:g} times is the most of a relative"
            )
        return None

    def __str__(self) -> str:
        """As people read it."""
        figures = {"cosine": self.cosine, "distance": self.distance, "size": self.ratio}
        known = [f"{name} {value:.4g}" for name, value in figures.items() if value is not None]
        if not known and not self.routers:
            return "not known: the delta keeps nothing of its base that tells"
        by = "a sample of its base" if self.basis == "sample" else "the norms of its base"
        parts = [f"by {by}, {self.tensors} tensors", *known] if known else []
        if self.lowest is not None:
            parts.append(f"lowest {self.lowest}")
        if self.routers:
            moved = f"experts moved: {self._moved}" if self.moved else "experts in order"
            parts.append(f"{self.routers} routers, {moved}")
        return ", ".join(parts)


def _is_near(ratio: float) -> bool:
    return 1 / MOST_RATIO <= ratio <= MOST_RATIO
