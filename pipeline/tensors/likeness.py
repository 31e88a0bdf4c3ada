"""How alike two runs of values are: cosines and distances in float64, None where they say nothing."""

from __future__ import annotations

import math

import numpy as np

from pipeline.tensors.doubles import Doubles

_CLEARLY = 0.2  # by which another row's cosine is above its own before it counts as moved


def centred_cosine(left: Doubles, right: Doubles) -> float | None:
    """The cosine of two runs, each less its mean: Pearson's correlation.

    Without that, weights that all lie near one value, as those of norms do, would look alike in any two
    models.
    """
    with np.errstate(all="ignore"):
        return cosine(left - left.mean(), right - right.mean())


def cosine(left: Doubles, right: Doubles) -> float | None:
    """The cosine of two runs; None if one is zero or not finite."""
    with np.errstate(all="ignore"):
        sizes = np.sqrt(np.square(left).sum()) * np.sqrt(np.square(right).sum())
        found = float((left * right).sum() / sizes) if sizes > 0 else math.nan
    return max(-1.0, min(1.0, found)) if math.isfinite(found) else None


def relative_distance(new: Doubles, old: Doubles) -> float | None:
    """|new - old| / |old|; None if that is no number."""
    with np.errstate(all="ignore"):
        return _quotient(new - old, old)


def relative_size(new: Doubles, old: Doubles) -> float | None:
    """|new| / |old|; None if that is no number."""
    return _quotient(new, old)


def _quotient(above: Doubles, below: Doubles) -> float | None:
    with np.errstate(all="ignore"):
        size = float(np.sqrt(np.square(below).sum()))
        found = float(np.sqrt(np.square(above).sum())) / size if size > 0 else math.nan
    return found if math.isfinite(found) else None


def row_cosines(left: Doubles, right: Doubles) -> Doubles | None:
    """The cosine of each row of `left` with each of `right`; None if anything is not finite.

    The mean of all rows is taken off first: a router's scores mean the same with it as without.
    """
    with np.errstate(all="ignore"):
        units = []
        for rows in (left, right):
            apart = rows - rows.mean(axis=0)
            size = np.sqrt(np.square(apart).sum(axis=1, keepdims=True))
            units.append(np.divide(apart, size, out=np.zeros_like(apart), where=size > 0))
        found: Doubles = np.einsum("ik,jk->ij", *units)
    return found if np.isfinite(found).all() else None


def moved_rows(cosines: Doubles) -> list[tuple[int, int]]:
    """The rows that stand elsewhere on the right, each with its place there.

    A row has moved where another place is clearly more like it than its own, and that place is like no
    other row as much: chance makes the first come true now and then, not both.
    """
    place, row = cosines.argmax(axis=1), cosines.argmax(axis=0)
    ahead = cosines.max(axis=1) - cosines.diagonal() > _CLEARLY
    return [(int(n), int(place[n])) for n in np.flatnonzero(ahead) if row[place[n]] == n]
