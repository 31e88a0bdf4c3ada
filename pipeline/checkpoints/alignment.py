"""Which tensors of two checkpoints belong together, and every reason why they might not.

Tensors belong together by name. Their shapes must be equal, but for one case: a vocabulary that grew.
There the rows of embedding and head are aligned by position, which is right only as long as both
tokenizers give the same ids to the same tokens; that is checked, never assumed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.checkpoints.checkpoint import Checkpoint, Source
from pipeline.checkpoints.strict_json import is_too_much
from pipeline.errors import Mismatch

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """One tensor of post and its counterpart in base, which may have fewer rows."""

    name: str
    post: Source
    base: Source


def pair_up(base: Checkpoint, post: Checkpoint) -> list[Pair]:
    """Each tensor of `post` with its counterpart in `base`, in the order of post's files.

    Raises Mismatch with every tensor that is missing on one side, has another shape, or is float on
    one side only.
    """
    problems = name_problems(base.tensors, post.tensors, "base", "post")
    for name, source in post.tensors.items():
        if name not in base.tensors:
            continue
        ours, theirs = source.entry, base.tensors[name].entry
        if ours.dtype.is_float != theirs.dtype.is_float:
            problems.append(f"{name} is {theirs.dtype} in base and {ours.dtype} in post")
        elif is_absent(theirs.shape, ours.shape):
            continue  # only post has it
        elif ours.shape != theirs.shape and not is_grown(
            theirs.shape, base.vocab_size, ours.shape, post.vocab_size
        ):
            problems.append(f"{name} has shape {show(theirs.shape)} in base, {show(ours.shape)} in post")
    if problems:
        raise Mismatch(
            problems,
            where=f"{base.location} and {post.location}",
            hint="post must have been trained from base: check that both are the right ones, "
            "with `cli.py inspect`",
        )
    return [Pair(name, source, base.tensors[name]) for name, source in post.tensors.items()]


def name_problems(left: Iterable[str], right: Iterable[str], left_is: str, right_is: str) -> list[str]:
    """A line for each name that only one side has."""
    ours, theirs = set(left), set(right)
    return [
        *(f"{name} is only in {left_is}" for name in sorted(ours - theirs)),
        *(f"{name} is only in {right_is}" for name in sorted(theirs - ours)),
    ]


def is_grown(small: Shape, small_vocab: int | None, large: Shape, large_vocab: int | None) -> bool:
    """Whether the shapes are those of one vocabulary tensor before and after it grew.

    Told by the configs, not by names: the first dimension is the vocabulary's size on both sides.
    """
    if not small or not large or small_vocab is None or large_vocab is None:
        return False
    return small[1:] == large[1:] and (small[0], large[0]) == (small_vocab, large_vocab) and (
        small_vocab < large_vocab
    )  # fmt: skip


def is_absent(base: Shape, post: Shape) -> bool:
    """Whether these are the shapes of a tensor that only post has: the base's has no rows."""
    return base[:1] == (0,) and base[1:] == post[1:] and post[:1] != (0,)


def show(shape: Shape) -> str:
    """A shape as people write it: 32000 × 4096."""
    return " × ".join(str(size) for size in shape) or "scalar"


def check_vocabulary(ours: bytes | None, theirs: bytes | None, *, where: str) -> None:
    """Raise Mismatch if two `tokenizer.json` give one id to different ordinary tokens.

    Added and special tokens may be renamed (reserved ones often are); where a tokenizer is missing
    there is nothing to compare.
    """
    if ours is None or theirs is None or ours == theirs:
        return
    left, right = _ordinary_tokens(ours), _ordinary_tokens(theirs)
    problems = [
        f"id {number} is {token!r} on one side and {right[number]!r} on the other"
        for number, token in left.items()
        if right.get(number, token) != token
    ]
    if problems:
        raise Mismatch(
            problems,
            where=where,
            hint="rows are aligned by position, so these tokenizers would mix up tokens: "
            "use a base with the same vocabulary",
            noun="token",
        )


def _ordinary_tokens(tokenizer: bytes) -> dict[int, str]:
    """Token by id, without the added ones; empty for a tokenizer whose form we do not know."""
    if is_too_much(tokenizer):
        return {}
    try:
        fields = json.loads(tokenizer)
        vocab = fields["model"]["vocab"]
        added = {token["id"] for token in fields.get("added_tokens", ())}
        if isinstance(vocab, Mapping):
            items = {number: token for token, number in vocab.items()}
        else:  # a unigram model's list of (token, score)
            items = {number: token for number, (token, _) in enumerate(vocab)}
        return {number: token for number, token in items.items() if number not in added}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
