"""Derived tensors: read like any file, by any range that holds whole elements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from pipeline.checkpoints.derived import DerivedReader
from pipeline.checkpoints.pickled import MemoryReader
from pipeline.storage.base import Reader
from pipeline.tensors.dtypes import F32, Bytes, DType


@dataclass(frozen=True)
class Doubled:
    """Twice the floats of a file."""

    source: MemoryReader
    shape: tuple[int, ...]
    recipe: str = "doubled"
    dtype: DType = F32

    @property
    def readers(self) -> Sequence[Reader]:
        return [self.source]

    def fill(self, start: int, out: Bytes) -> None:
        self.source.read_into(4 * start, out.data)
        values = out.view("<f4")
        values *= 2


def floats(*values: float) -> MemoryReader:
    return MemoryReader("floats", np.array(values, "<f4").tobytes())


def test_ranges_across_tensors_come_from_each_in_turn() -> None:
    file = DerivedReader("two", {"a": Doubled(floats(1, 2, 3), (3,)), "b": Doubled(floats(4, 5), (2,))})
    assert [(each.name, each.offset) for each in file.entries] == [("a", 0), ("b", 12)]
    assert file.nbytes == 20
    found = np.empty(3, "<f4")
    file.read_into(8, memoryview(found).cast("B"))
    assert found.tolist() == [6, 8, 10]


@pytest.mark.parametrize("other", [floats(1, 2, 4), floats(1, 2)])
def test_its_version_is_another_if_what_it_reads_is(other: MemoryReader) -> None:
    ours = DerivedReader("one", {"a": Doubled(floats(1, 2, 3), (3,))})
    theirs = DerivedReader("one", {"a": Doubled(other, (2,))})
    assert ours.version != theirs.version


def test_its_version_is_another_if_it_does_something_else() -> None:
    source = floats(1, 2, 3)
    ours = DerivedReader("one", {"a": Doubled(source, (3,))})
    theirs = DerivedReader("one", {"a": Doubled(source, (3,), "halved")})
    assert ours.version != theirs.version
