"""Means over documents with their standard errors, which know that a document's tokens hang together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from pipeline.quality.report import Measurement


class OfData(Protocol):
    """What was found in one item of a data set."""

    @property
    def data(self) -> str:
        """The set's name."""


Found = TypeVar("Found", bound=OfData)


def by_set(found: Sequence[Found]) -> Mapping[str, Sequence[Found]]:
    """What was found in each set, by the end of its figures' names: `:SET`; under "", all of it."""
    names = dict.fromkeys(each.data for each in found)
    return {"": found} | {f":{name}": [e for e in found if e.data == name] for name in names}


def ratio(parts: Sequence[float], wholes: Sequence[float], *, unit: float = 1.0) -> Measurement:
    """sum(parts) / sum(wholes) / `unit` over documents; count: the sum of wholes.

    The standard error is that of a ratio of means over documents drawn at random: that of their
    residuals, not of their tokens, which are not independent. None of a single document.
    """
    total = math.fsum(wholes)
    if not total:
        return Measurement(math.nan)
    value = math.fsum(parts) / total
    count = len(parts)
    error = None
    if count > 1:
        squares = math.fsum((p - value * w) ** 2 for p, w in zip(parts, wholes, strict=True))
        error = math.sqrt(count / (count - 1) * squares) / total / unit
    return Measurement(value / unit, error, round(total))


def exponential(of: Measurement) -> Measurement:
    """exp of a figure, its standard error carried along to first order."""
    value = math.exp(of.value) if of.value < 700 else math.inf  # exp(710) is no float
    if math.isnan(of.value):
        value = math.nan
    return Measurement(value, None if of.standard_error is None else value * of.standard_error, of.count)
