"""Which side each key of config.json comes from when post-training moves to another base.

Architecture, RoPE and every other key are the new base's. What belongs to the tokenizer, which travels
with the delta, is post's: the special tokens' ids, and the vocabulary's size where it grew.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

Config = Mapping[str, Any]

# Differ between any two models without meaning anything for their weights.
UNREMARKABLE = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}


def vocab_size(config: Config | None) -> int | None:
    """Rows of the embedding, as a config (or a multimodal config's text part) says."""
    config = config or {}
    text = config.get("text_config")
    size = config.get("vocab_size", text.get("vocab_size") if isinstance(text, dict) else None)
    return size if type(size) is int else None


def transfer_config(
    base: Config | None, post: Config | None, *, vocab_size: int | None, dtype: str | None = None
) -> dict[str, Any] | None:
    """The config of new base + delta: new base's keys, post's token ids, the others if given.

    dtype: the float format that was asked for, by torch's name.
    """
    if base is None:
        return None
    config = {**base, **_token_ids(post or {})}
    text = config.get("text_config")
    if isinstance(text, dict):
        theirs = (post or {}).get("text_config")
        ids = _token_ids(theirs) if isinstance(theirs, Mapping) else _token_ids(post or {}, text)
        config["text_config"] = {**text, **ids}
    if vocab_size is not None:
        config = with_vocab_size(config, vocab_size)
    if dtype is not None:
        config.pop("torch_dtype", None)  # its older name
        config["dtype"] = dtype
    return config


def with_vocab_size(config: Config | None, size: int) -> dict[str, Any]:
    """`config`, or its text part where that says it, with `size` rows of vocabulary."""
    made = dict(config or {})
    text = made.get("text_config")
    if "vocab_size" not in made and isinstance(text, dict):
        return {**made, "text_config": {**text, "vocab_size": size}}
    return {**made, "vocab_size": size}


def is_token_id(key: str) -> bool:
    """Whether a key of a config is the id of a token, so that it belongs to the tokenizer.

    transformers 5.23 writes `image_token_index` and its like for LLaVA and Gemma 3.
    """
    return key.endswith(("_token_id", "_token_index"))


def _token_ids(config: Config, among: Collection[str] | None = None) -> dict[str, Any]:
    """The ids of tokens in a config; only those whose keys are `among` these, if that is given."""
    return {k: v for k, v in config.items() if is_token_id(k) and (among is None or k in among)}


def has_text_part(config: Config | None) -> bool:
    """Whether a config is of a model with more than text, whose text part has its own config."""
    return isinstance((config or {}).get("text_config"), Mapping)


def around_text(whole: Config, text: Config, *, tied: bool) -> dict[str, Any]:
    """The config `whole` of a multimodal model with `text`, a text model's, as that of its text part.

    tied: whether the text model's head is its embedding.
    """
    formats = {key: text[key] for key in ("dtype", "torch_dtype") if key in text}
    rest = {key: value for key, value in whole.items() if key not in ("dtype", "torch_dtype")}
    return {**rest, **formats, "tie_word_embeddings": tied, "text_config": dict(text)}
