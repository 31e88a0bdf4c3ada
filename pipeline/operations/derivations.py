"""How a report, a card and a provenance say that weights were not read as they are stored."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.operations.addends.addend import Origin


def describe_sides(sides: Sequence[tuple[str, str | None]]) -> tuple[str, ...]:
    """A line for each of `sides`, named models with what `Checkpoint.derived` says, that was derived."""
    return tuple(f"{side}: {derived}" for side, derived in sides if derived is not None)


def describe_origins(base: str | None, origins: Sequence[Origin]) -> tuple[str, ...]:
    """The same for a sum. base: what `Checkpoint.derived` says of its base."""
    sides = [("base", base)]
    for number, origin in enumerate(origins, 1):
        for part, who in (("post", origin.post), ("base", origin.base)):
            sides.append((f"{part} of ∆{number}", who.derived if who else None))
    return describe_sides(sides)
