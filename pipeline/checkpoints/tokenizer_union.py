"""A tokenizer.json that makes another tokenizer's added tokens, too, under ids that are given.

The `tokenizers` library does not keep to the ids that the file states: on reading, an added token gets
the id that the model's vocabulary has for it, else the next one behind as many as that has and behind
those that it gave so (`AddedVocabulary::add_tokens`). So where ids leave a gap, all added tokens go into
that vocabulary as well, which is possible if it is an object of ids (BPE, WordPiece, WordLevel) and not
a list (Unigram).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from pipeline.checkpoints.files import TOKENIZER
from pipeline.checkpoints.strict_json import parse_json
from pipeline.checkpoints.vocabulary import read_vocabulary

_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True, slots=True)
class Own:
    """An added token of another tokenizer: its id in the result, and how text is matched to it."""

    token: str
    id: int
    flags: Mapping[str, bool]


def own_tokens(
    own: Sequence[tuple[str, int]], sources: Sequence[bytes | None], target: bytes | None
) -> tuple[tuple[Own, ...], list[str]]:
    """Those of the tokens `own`, with their ids, that `with_own` can add to `target`, and the others.

    sources: the tokenizer.json that they are from; only added tokens can be added to another, and only
    where neither token nor id is there already, as in a tokenizer that is larger than its embedding.
    """
    known = None if target is None else read_vocabulary({TOKENIZER: target})
    if not own or target is None or known is None:
        return (), [token for token, _ in own]
    flags: dict[str, Any] = {}
    for source in sources:
        flags |= {} if source is None else {e["content"]: e for e in _added(parse_json(source))}
    found = [
        Own(token, number, {name: flags[token].get(name) is True for name in _FLAGS})
        for token, number in sorted(own, key=lambda each: each[1])
        if token in flags and token not in known.ids and number not in known.tokens
    ]
    fields = parse_json(target)
    if not _by_id(fields):
        places = enumerate(found, _next_id(fields))
        found = [each for _, each in takewhile(lambda place: place[0] == place[1].id, places)]
    taken = {each.token for each in found}
    return tuple(found), [token for token, _ in own if token not in taken]


def with_own(target: bytes, own: Sequence[Own]) -> bytes:
    """The tokenizer.json `target` with the tokens `own`, as `own_tokens` found that it can be."""
    fields = parse_json(target)
    listed = _added(fields) + [{"id": each.id, "content": each.token, **each.flags} for each in own]
    if not _follow(fields, own):
        vocab = {**fields["model"]["vocab"], **{each["content"]: each["id"] for each in listed}}
        fields = {**fields, "model": {**fields["model"], "vocab": vocab}}
    return json.dumps({**fields, "added_tokens": listed}, ensure_ascii=False).encode()


def _added(fields: Any) -> list[Any]:
    return list(fields.get("added_tokens") or ())


def _by_id(fields: Any) -> bool:
    """Whether the model's vocabulary can have any ids."""
    return isinstance(fields["model"]["vocab"], dict)


def _follow(fields: Any, own: Sequence[Own]) -> bool:
    """Whether the library would give `own`, in order, just the ids that they have.

    With a gap in the model's vocabulary it would not: it counts that one's tokens, whatever their ids.
    """
    vocab = fields["model"]["vocab"]
    has_gap = _by_id(fields) and max(vocab.values(), default=-1) >= len(vocab)
    places = enumerate(own, _next_id(fields))
    return not has_gap and all(each.id == number for number, each in places)


def _next_id(fields: Any) -> int:
    """The id that the library would give the next added token."""
    known = [each["id"] for each in _added(fields)]
    return max(len(fields["model"]["vocab"]), max(known, default=-1) + 1)
