"""Tokens as the bytes that they stand for, so that tokens of two tokenizers can be held side by side.

Three ways of writing a token are known: byte by byte, each as a printable character (GPT-2, Llama 3,
Qwen); words that begin with `▁`, with bytes as `<0xAB>` (Llama 2, Mistral, Gemma); and plainly. Tokens
that were added to a vocabulary are always written plainly.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

UNKNOWN = -1  # in place of an end: the token ends inside a character, or nobody knows where
_WORD = "▁"
_BYTE = re.compile(r"<0x([0-9A-F]{2})>")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A tokenizer's tokens. pieces: their bytes, by id. ids: by kind and bytes."""

    pieces: Mapping[int, bytes]
    ids: Mapping[tuple[str, bytes], int]


def read_vocabulary(tokenizer: PreTrainedTokenizerBase) -> Vocabulary:
    """All tokens of a tokenizer."""
    added = tokenizer.get_added_vocab()
    tokens = {token: number for token, number in tokenizer.get_vocab().items() if token not in added}
    alphabet = _byte_alphabet()
    is_bytes = all(alphabet.keys() >= set(token) for token in tokens)
    is_words = not is_bytes and any(token.startswith(_WORD) for token in tokens)
    pieces: dict[int, bytes] = {}
    ids: dict[tuple[str, bytes], int] = {}
    for token, number in tokens.items():
        kind, piece = "", token.encode()
        if is_bytes:
            piece = bytes(alphabet[character] for character in token)
        elif is_words and (code := _BYTE.fullmatch(token)):
            kind, piece = "byte", bytes([int(code[1], 16)])  # beside the token of that character
        elif is_words:
            piece = token.replace(_WORD, " ").encode()
        pieces[number] = piece
        ids.setdefault((kind, piece), number)
    for token, number in added.items():
        pieces[number] = token.encode()
        ids.setdefault(("", token.encode()), number)
    return Vocabulary(pieces, ids)


def token_ends(
    tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, text: str, ids: Sequence[int]
) -> list[int]:
    """After how many bytes of `text` each of its tokens `ids` ends.

    From the tokens' bytes, if together they are the text; else from what the tokenizer says of
    characters, and UNKNOWN where that is of no use.
    """
    whole = text.encode()
    pieces = [vocabulary.pieces.get(number, b"") for number in ids]
    spelled = b"".join(pieces)
    lead = len(spelled) - len(whole)  # a space that the tokenizer set before the first word
    if spelled[:lead] in (b"", b" ") and spelled[max(0, lead) :] == whole:
        return [max(0, int(end) - lead) for end in np.cumsum([len(piece) for piece in pieces])]
    if not tokenizer.is_fast:
        return [UNKNOWN] * len(ids)
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    places = found["offset_mapping"]
    before = np.concatenate([[0], np.cumsum([len(character.encode()) for character in text])])
    nexts = [*(begin for begin, _ in places[1:]), len(text)]
    return [
        int(before[end]) if following >= end else UNKNOWN
        for (_, end), following in zip(places, nexts, strict=True)
    ]


def _byte_alphabet() -> dict[str, int]:
    """The byte that each character stands for in byte-level vocabularies, as GPT-2 set them."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), 256)]
    others = [code for code in range(256) if code not in set(plain)]
    return {chr(code): code for code in plain} | {chr(256 + n): code for n, code in enumerate(others)}
