"""The methods by which deltas are put together, by name; docs/fusion.md says what each does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Literal

MethodName = Literal[
    "linear", "ties", "dare_linear", "dare_ties", "della", "breadcrumbs", "slerp", "model_stock"
]


class Drop(Enum):
    """Which elements of a delta a method leaves out."""

    NONE = "none"
    SMALLEST = "smallest"
    OUTLIERS = "outliers"  # and the smallest
    RANDOM = "random"
    RANKED = "ranked"  # by chance, the smaller the likelier


@dataclass(frozen=True, slots=True)
class Method:
    """What a method does.

    elects: whether only what has the elected sign is added. normalizes: whether that is divided by its
    weights. rescales: whether what is kept gets the sum of sizes of the whole. by_angles: whether it
    goes by the angles between whole tensors, and so has no lambda. least, most: how many deltas it
    takes.
    """

    drops: Drop = Drop.NONE
    elects: bool = False
    normalizes: bool = False
    rescales: bool = False
    by_angles: bool = False
    least: int = 1
    most: int | None = None


METHODS: Mapping[str, Method] = {
    "linear": Method(),
    "ties": Method(Drop.SMALLEST, elects=True, normalizes=True),
    "dare_linear": Method(Drop.RANDOM, rescales=True),
    "dare_ties": Method(Drop.RANDOM, elects=True, rescales=True),
    "della": Method(Drop.RANKED, elects=True, normalizes=True, rescales=True),
    "breadcrumbs": Method(Drop.OUTLIERS),
    "slerp": Method(by_angles=True, most=2),
    "model_stock": Method(by_angles=True, least=2),
}
