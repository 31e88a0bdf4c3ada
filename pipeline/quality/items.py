"""What came of each question, kept so that two models can be compared item by item.

A file has a line of JSON for each item: {"data", "task", "id", "score", ...}. Lines of text documents,
which other keys tell apart, may lie in the same file; `read_items` passes them over.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.checkpoints.strict_json import parse_json, plain
from pipeline.errors import CorruptFile


@dataclass(frozen=True, slots=True)
class Item:
    """One question as one model answered it.

    score: 1 for right, 0 for wrong; tasks of the harness may have something between. normalised: the
    same by log-likelihood per byte. prompt: BLAKE3 of the text that the model was shown, in hex. given:
    the generated answer, or the choice that the model holds likeliest. ended: whether the model ended
    what it generated; None of choices. truncated: whether the prompt lost its beginning, being longer
    than the model's context. log_likelihoods: of the choices, in nats.
    """

    data: str
    task: str
    id: str
    score: float
    prompt: str = ""
    given: str | None = None
    ended: bool | None = None
    normalised: float | None = None
    truncated: bool = False
    log_likelihoods: tuple[float, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """What the same question has in the results of every model."""
        return self.task, self.id

    @property
    def is_right(self) -> bool:
        """Whether it counts as right where only right and wrong are told apart."""
        return self.score >= 0.5


@dataclass(frozen=True, slots=True)
class Pair:
    """An item as two models answered it."""

    left: Item
    right: Item


def to_line(item: Mapping[str, Any]) -> str:
    """A line of JSON without its end; a number that is not finite is written as null."""
    return json.dumps(plain(item), ensure_ascii=False, allow_nan=False)


def read_items(data: bytes, *, where: str) -> list[Item]:
    """The answers in a file of items. Raises CorruptFile, naming `where` and the line."""
    items = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            raw = parse_json(line)
            if "task" in raw:
                items.append(parse_item(raw))
        except (ValueError, TypeError, KeyError) as error:
            raise CorruptFile(f"line {number} is no item: {error}"[:300], where=where) from error
    return items


def parse_item(raw: Mapping[str, Any]) -> Item:
    """The item that `asdict` made `raw` of. Raises ValueError, TypeError or KeyError."""
    texts = {name: str(raw[name]) for name in ("data", "task", "id", "prompt")}
    numbers = [math.nan if each is None else float(each) for each in raw["log_likelihoods"]]
    given, ended, normalised = raw["given"], raw["ended"], raw["normalised"]
    return Item(
        **texts,
        score=math.nan if raw["score"] is None else float(raw["score"]),
        given=None if given is None else str(given),
        ended=None if ended is None else bool(ended),
        normalised=None if normalised is None else float(normalised),
        truncated=bool(raw["truncated"]),
        log_likelihoods=tuple(numbers),
    )


def pair_items(left: Sequence[Item], right: Sequence[Item]) -> list[Pair]:
    """The items that both have, in the order of `left`."""
    found = {item.key: item for item in right}
    return [Pair(item, found[item.key]) for item in left if item.key in found]
