"""Whether a result is right, element by element: an independent reference of a few lines of torch.

    python benchmarks/check.py sum BASE POST BASE2 RESULT   RESULT is BASE2 + (POST - BASE), rounded once
    python benchmarks/check.py same EXPECTED RESULT         RESULT equals EXPECTED bit for bit

Prints JSON: how many elements there are, and how many have other bits than they should. Reads a few
rows at a time with safetensors' own reader.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

SLICE_ELEMENTS = 1 << 20

Formula = Callable[[Sequence[torch.Tensor]], torch.Tensor]


def transferred(slices: Sequence[torch.Tensor]) -> torch.Tensor:
    """base2 + (post - base) in float32, rounded once to base2's dtype."""
    base, post, base2 = slices
    return (base2.float() + (post.float() - base.float())).to(base2.dtype)


def unchanged(slices: Sequence[torch.Tensor]) -> torch.Tensor:
    """The one input itself."""
    return slices[0]


FORMULAS: dict[str, Formula] = {"sum": transferred, "same": unchanged}


class Model:
    """The tensors of a folder's safetensors files."""

    def __init__(self, folder: Path) -> None:
        files = [safe_open(path, "pt") for path in sorted(folder.glob("*.safetensors"))]
        self._places = {name: file for file in files for name in file.keys()}  # noqa: SIM118

    @property
    def names(self) -> Sequence[str]:
        """All tensors, sorted."""
        return sorted(self._places)

    def __getitem__(self, name: str) -> Any:
        return self._places[name].get_slice(name)

    def __contains__(self, name: str) -> bool:
        return name in self._places


def runs(shape: Sequence[int]) -> Iterator[slice]:
    """Rows of a tensor, a few at a time."""
    width = 1
    for size in shape[1:]:
        width *= size
    step = max(1, SLICE_ELEMENTS // width)
    for start in range(0, shape[0], step):
        yield slice(start, start + step)


def differing(inputs: Sequence[Model], result: Model, formula: Formula) -> Iterator[tuple[int, int]]:
    """For each tensor of the last input: its elements, and how many of the result's differ.

    A tensor that the result lacks, or has in another shape or dtype, differs everywhere.
    """
    for name in inputs[-1].names:
        sources = [model[name] for model in inputs]
        shape = sources[-1].get_shape()
        count = torch.Size(shape).numel()
        if name not in result or result[name].get_shape() != shape:
            yield count, count
            continue
        found = result[name]
        wrong = 0
        for rows in runs(shape):
            expected, actual = formula([source[rows] for source in sources]), found[rows]
            if expected.dtype != actual.dtype:
                wrong += expected.numel()
            else:
                wrong += int((expected.view(torch.int16) != actual.view(torch.int16)).sum())
        yield count, wrong


def main(kind: str, *folders: str) -> None:
    """Compare and print."""
    *inputs, result = (Model(Path(folder)) for folder in folders)
    counts = list(differing(inputs, result, FORMULAS[kind]))
    print(json.dumps({"elements": sum(n for n, _ in counts), "differ": sum(n for _, n in counts)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
