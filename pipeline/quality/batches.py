"""Token sequences of different lengths as the rectangles that a model takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    import torch

_Row = TypeVar("_Row")


def batches(rows: Sequence[_Row], size: int) -> Iterator[Sequence[_Row]]:
    """`rows`, `size` at a time, in their order."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def rectangle(
    rows: Sequence[Sequence[int]], pad: int, device: Any, *, side: Literal["left", "right"]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows as one tensor of ids, padded on one side, and the mask of what is not padding."""
    import torch

    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for number, row in enumerate(rows):
        span = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[number, span] = torch.tensor(row, dtype=torch.long)
        mask[number, span] = 1
    return ids.to(device), mask.to(device)


def pad_id(tokenizer: Any) -> int:
    """Some id for positions that nothing looks at."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Nothing here draws at random; what a model's own code may draw in the block is always the same."""
    import torch

    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        yield

