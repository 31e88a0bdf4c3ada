"""Texts cut into windows that a model can see at once, and windows put together into batches.

The windows are those of lm-evaluation-harness' `loglikelihood_rolling`: every token is predicted once;
the first window begins with the prefix token; each further one predicts as many tokens as it is long,
from one token of context on; the last one predicts what is left, and is filled with context before it.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

DEFAULT_LENGTH = 2048  # tokens: what a window costs in memory does not grow with the model's context
BATCH_TOKENS = 2048  # in a batch of several windows


@dataclass(frozen=True, slots=True)
class Window:
    """What a model reads at once, and which of it is to be predicted.

    document: index of the text. inputs: ids. targets: the ids that the last positions of `inputs`
    predict, one for each. begin: the first target's index among the document's tokens.
    """

    document: int
    inputs: Sequence[int]
    targets: Sequence[int]
    begin: int


def rolling_windows(document: int, ids: Sequence[int], prefix: int, length: int) -> Iterator[Window]:
    """Windows of `length` tokens at most over the tokens `ids` of a text, after the token `prefix`."""
    read = array("i", [prefix, *ids])  # position n predicts ids[n]
    done = 0
    while done < len(ids):
        end = min(done + length, len(ids))
        yield Window(document, read[max(0, end - length) : end], ids[done:end], done)
        done = end


def batches(items: Sequence[T], most: int, *, size: Callable[[T], int]) -> Iterator[Sequence[T]]:
    """The items, longest first, in batches of at most `most`, with few tokens of padding.

    size: tokens of an item. A batch of more than one has at most `BATCH_TOKENS`, padding included.
    """
    ordered = sorted(items, key=lambda item: -size(item))
    at = 0
    while at < len(ordered):
        rows = max(1, min(most, BATCH_TOKENS // size(ordered[at])))
        yield ordered[at : at + rows]
        at += rows
