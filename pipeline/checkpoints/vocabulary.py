"""Which token has which id, as the files of a tokenizer say: data from outside, checked first.

Known are tokenizer.json (BPE, WordPiece and WordLevel keep an object of ids, Unigram a list of pieces in
the order of their ids; added tokens, special ones among them, lie beside that), and the older vocab.json
with added_tokens.json. https://huggingface.co/docs/tokenizers/api/tokenizer
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.checkpoints.files import TOKENIZER
from pipeline.checkpoints.row_order import MAX_ROWS
from pipeline.checkpoints.strict_json import parse_json
from pipeline.errors import Mismatch

_VOCABULARY_FILES = (TOKENIZER, "vocab.json", "added_tokens.json")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The tokens of a tokenizer, each with one id of its own.

    tokens: by id. ids: by token. added: the ids of those that stand beside the model's own, mostly
    special ones.
    """

    tokens: Mapping[int, str]
    ids: Mapping[str, int]
    added: frozenset[int]

    def ordinary(self, number: int) -> bool:
        """Whether an id is that of a token of the model's own."""
        return number in self.tokens and number not in self.added


def vocabulary_files(present: Container[str]) -> list[str]:
    """Those of the files `present` that say a vocabulary: tokenizer.json says all of it by itself."""
    known = [name for name in _VOCABULARY_FILES if name in present]
    return known[:1] if TOKENIZER in known else known


def read_vocabulary(files: Mapping[str, bytes]) -> Vocabulary | None:
    """The vocabulary that a tokenizer's `files`, by name, make; None if there is none of a known form.

    Of no known form, too, is one in which an id has two tokens or a token two ids.
    """
    try:
        if TOKENIZER in files:
            fields = parse_json(files[TOKENIZER])
            listed = [(each["content"], each["id"]) for each in fields.get("added_tokens") or ()]
            if len(set(listed)) != len(dict(listed)):
                raise ValueError("an added token has two ids")
            return _assemble(_ordinary(fields["model"]["vocab"]), dict(listed))
        if "vocab.json" in files:
            extra = parse_json(files["added_tokens.json"]) if "added_tokens.json" in files else {}
            return _assemble(_ordinary(parse_json(files["vocab.json"])), dict(extra))
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return None


def unite(vocabularies: Sequence[Vocabulary], *, where: str) -> Vocabulary:
    """The tokens of all, which must have the same ids, added ones too. Raises Mismatch."""
    tokens: dict[int, str] = {}
    ids: dict[str, int] = {}
    problems = []
    for other in vocabularies:
        for number, token in other.tokens.items():
            if tokens.setdefault(number, token) != token:
                problems.append(
                    f"id {number} is {tokens[number]!r} in one delta and {token!r} in another"
                )
            elif ids.setdefault(token, number) != number:
                problems.append(f"{token!r} is id {ids[token]} in one delta and {number} in another")
    if problems:
        raise Mismatch(
            problems,
            where=where,
            hint="deltas add up only if their posts have the same tokens, added ones too: apply them "
            "one after another, each result being the next base",
            noun="token",
        )
    return Vocabulary(tokens, ids, frozenset().union(*(each.added for each in vocabularies)))


def _ordinary(vocab: Any) -> dict[str, int]:
    """Ids by token, of the model's own vocabulary."""
    if isinstance(vocab, dict):
        return vocab
    pieces = [piece for piece, _ in vocab]
    found = {piece: number for number, piece in enumerate(pieces)}
    if len(found) != len(pieces):
        raise ValueError("a piece occurs twice")
    return found


def _assemble(ordinary: dict[str, int], added: dict[str, int]) -> Vocabulary:
    """Both together. Raises ValueError if a token or an id is none, or has two of the other."""
    odd = [token for token, number in added.items() if ordinary.get(token, number) != number]
    ids = {**ordinary, **added}
    tokens: dict[int, str] = {}
    for token, number in ids.items():
        if type(token) is not str or type(number) is not int or not 0 <= number < MAX_ROWS:
            raise ValueError("no token, or no id")
        tokens[number] = token
    if odd or len(tokens) != len(ids):
        raise ValueError("a token has two ids, or an id two tokens")
    return Vocabulary(tokens, ids, frozenset(added.values()))
