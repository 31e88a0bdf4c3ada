"""The same text before two models: windows side by side, and the positions that can be compared.

Where both cut a text into the same pieces, the windows are those of `rolling_windows`, and every
position is compared. Where they don't, a position is compared if what both have read by then ends at
the same byte; windows then begin at such a byte, after the prefix token alone, so that both have read
the very same text at every position that is compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pipeline.quality.spelling import UNKNOWN
from pipeline.quality.windows import Window, rolling_windows


@dataclass(frozen=True, slots=True)
class Read:
    """A text as one model reads it: its ids, after how many bytes each ends, and what stands before."""

    ids: Sequence[int]
    ends: Sequence[int]
    prefix: int


@dataclass(frozen=True, slots=True)
class Pair:
    """A window of the model and one of the reference, and which of their targets belong together."""

    model: Window
    reference: Window
    ours: Sequence[int]
    theirs: Sequence[int]

    @property
    def longest(self) -> int:
        """Tokens of the longer of the two windows."""
        return max(len(self.model.inputs), len(self.reference.inputs))


def pair_windows(document: int, model: Read, reference: Read, length: int) -> Iterator[Pair]:
    """Windows of `length` tokens at most over a text that is read in two ways."""
    if list(model.ends) == list(reference.ends):
        windows = list(rolling_windows(document, model.ids, model.prefix, length))
        others = windows
        if (reference.ids, reference.prefix) != (model.ids, model.prefix):
            others = list(rolling_windows(document, reference.ids, reference.prefix, length))
        for ours, theirs in zip(windows, others, strict=True):
            everything = range(len(ours.targets))
            yield Pair(ours, theirs, everything, everything)
        return
    matches = _matches(model, reference)
    at = 0
    while at < len(matches):
        i, j = matches[at]
        fits = at
        while fits < len(matches) and matches[fits][0] - i < length and matches[fits][1] - j < length:
            fits += 1
        some = matches[at:fits]
        yield Pair(
            _window(document, model, i, some[-1][0]),
            _window(document, reference, j, some[-1][1]),
            [ours - i for ours, _ in some],
            [theirs - j for _, theirs in some],
        )
        at = fits


def _matches(model: Read, reference: Read) -> list[tuple[int, int]]:
    """The positions, on both sides, before which the same bytes were read."""
    ours, theirs = _positions(model), _positions(reference)
    return sorted((ours[end], theirs[end]) for end in ours.keys() & theirs.keys())


def _positions(read: Read) -> dict[int, int]:
    """The position that predicts what follows so many bytes; of several, the one that has read most."""
    ends = [0, *read.ends[:-1]]
    return {end: position for position, end in enumerate(ends) if end != UNKNOWN}


def _window(document: int, read: Read, first: int, last: int) -> Window:
    """A window that predicts the tokens `first` to `last`, and has read none before them."""
    targets = read.ids[first : last + 1]
    return Window(document, [read.prefix, *targets[:-1]], targets, first)
