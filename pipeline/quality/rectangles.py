"""Token sequences of different lengths as the rectangles that a model takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import torch

    from pipeline.quality.subject import Subject

DEFAULT_BATCH = 16  # rows
_ROW_TOKENS = 256  # for each row that a batch may have; longer rows make smaller batches

_Row = TypeVar("_Row")


def groups(rows: Sequence[_Row], most: int, tokens: Callable[[_Row], int]) -> Iterator[Sequence[_Row]]:
    """`rows`, the longest first, in groups of at most `most`, and of less where they are long.

    tokens: of a row, with what is to be written behind it.
    """
    at = 0
    while at < len(rows):
        count = max(1, min(most, most * _ROW_TOKENS // max(1, tokens(rows[at]))))
        yield rows[at : at + count]
        at += count


def rectangle(
    rows: Sequence[Sequence[int]], subject: Subject, *, side: Literal["left", "right"]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows as one tensor of ids, padded on one side, and the mask of what is no padding."""
    import torch

    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id(subject.tokenizer), dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        span = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[number, span] = torch.tensor(row, dtype=torch.long)
        mask[number, span] = 1
    return ids.to(subject.device), mask.to(subject.device)


def pad_id(tokenizer: Any) -> int:
    """Some id for positions that nothing looks at."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Nothing here draws at random; what a model's own code draws in the block is the same each time."""
    import torch

    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        yield
