"""Tokenizers for tests, that the `tokenizers` library reads: words between spaces, ids as one likes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def words(tokens: Sequence[str], added: Mapping[str, int] | None = None) -> dict[str, Any]:
    """A tokenizer.json whose ordinary tokens have their place in `tokens` as id."""
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": None, "decoder": None,
        "added_tokens": [added_token(token, number) for token, number in (added or {}).items()],
        "model": {
            "type": "WordLevel", "unk_token": tokens[0],
            "vocab": {token: number for number, token in enumerate(tokens)},
        },
    }  # fmt: skip


def added_token(token: str, number: int) -> dict[str, Any]:
    """One entry of `added_tokens`, special."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": number, "content": token, **flags, "special": True}


def put(folder: str | Path, tokenizer: Mapping[str, Any]) -> None:
    """Write it as a model's."""
    (Path(folder) / "tokenizer.json").write_text(json.dumps(tokenizer))
