"""Rows in another order: written as runs, read from their source by as few reads as there are runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.checkpoints.checkpoint import Source
from pipeline.checkpoints.derived import DerivedReader
from pipeline.checkpoints.header import Entry
from pipeline.checkpoints.pickled import MemoryReader
from pipeline.checkpoints.reordered import Rows
from pipeline.checkpoints.row_order import ABSENT, MAX_RUNS, RowOrder
from pipeline.tensors.dtypes import BF16, F32


def test_neighbours_are_one_run():
    order = RowOrder.of([0, 1, 2, ABSENT, ABSENT, 7, 6, 5], 9)
    assert order.runs == ((0, 3), (ABSENT, 2), (7, 1), (6, 1), (5, 1))
    assert (order.count, order.absent) == (8, [(3, 5)])


def test_a_run_of_one_absent_row_is_not_row_zero():
    assert RowOrder.of([ABSENT, 0, 1], 2).runs == ((ABSENT, 1), (0, 2))


@given(st.lists(st.integers(-1, 20), min_size=1, max_size=30), st.data())
def test_pieces_of_any_range_are_the_rows_of_that_range(sources, data):
    order = RowOrder.of(sources, 21)
    start = data.draw(st.integers(0, len(sources) - 1))
    stop = data.draw(st.integers(start, len(sources)))
    found = []
    for first, count in order.pieces(start, stop):
        found += [ABSENT] * count if first == ABSENT else range(first, first + count)
    assert found == sources[start:stop]


def said(**changed: object) -> dict[str, object]:
    return {"rows": 9, "runs": [[3, 2], [ABSENT, 1], [0, 1]], **changed}


def test_what_is_said_is_read():
    assert RowOrder.parse(said()) == RowOrder.of([3, 4, ABSENT, 0], 9)


@pytest.mark.parametrize(
    "odd",
    [
        {"rows": True}, {"rows": -1}, {"rows": 1 << 25}, {"rows": "9"}, {"runs": {}}, {"runs": []},
        {"runs": [[0, 0]]}, {"runs": [[8, 2]]}, {"runs": [[-2, 1]]}, {"runs": [[0, 1.0]]},
        {"runs": [[0, True]]}, {"runs": [[0]]}, {"runs": [[0, 1, 1]]}, {"runs": [[0, 2], [2, 1]]},
        {"runs": [[ABSENT, 2], [ABSENT, 1]]}, {"runs": [[0, 3], [5, 1], [2, 1]]}, {"runs": "abc"},
        {"runs": [[ABSENT, 1 << 24], [0, 1]]}, {"runs": [[ABSENT, 1 << 62]]},
        {"runs": [[0, 1]] * (MAX_RUNS + 1)},
    ],
    ids=lambda odd: repr(odd)[:40],
)  # fmt: skip
def test_an_order_that_is_none_is_refused(odd):
    with pytest.raises((ValueError, TypeError, KeyError)):
        RowOrder.parse(said(**odd))


class Counting(MemoryReader):
    """A file that notes what is read of it."""

    def __init__(self, data: bytes) -> None:
        super().__init__("x", data)
        self.reads: list[tuple[int, int]] = []

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.reads.append((offset, len(buffer)))
        super().read_into(offset, buffer)


def rows_of(table: np.ndarray, order: RowOrder) -> tuple[Rows, Counting]:
    data = b"????????" + table.tobytes()
    reader = Counting(data)
    dtype = {2: BF16, 4: F32}[table.dtype.itemsize]
    return Rows(Source(Entry("e", dtype, table.shape, 8), 0), reader, order), reader


@given(
    st.lists(st.integers(-1, 8), min_size=1, max_size=12),
    st.sampled_from([(), (3,), (2, 2)]),
    st.sampled_from(["<u2", "<u4"]),
    st.data(),
)
@settings(max_examples=40)
def test_any_range_of_elements_is_that_of_the_rows_in_order(sources, inner, kind, data):
    table = (np.arange(9 * int(np.prod(inner))) + 1).astype(kind).reshape(9, *inner)
    made, _ = rows_of(table, RowOrder.of(sources, 9))
    zeros = np.zeros((1, *inner), kind)
    wanted = np.concatenate([table[row : row + 1] if row >= 0 else zeros for row in sources])
    assert made.shape == wanted.shape
    file = DerivedReader("view", {"e": made})
    first = data.draw(st.integers(0, wanted.size - 1))
    last = data.draw(st.integers(first, wanted.size))
    found = np.empty(last - first, kind)
    file.read_into(first * wanted.itemsize, memoryview(found.view(np.uint8)))
    assert found.tolist() == wanted.reshape(-1)[first:last].tolist()


def test_neighbours_are_one_read_and_absent_rows_none():
    table = np.arange(40, dtype="<u4").reshape(10, 4)
    made, reader = rows_of(table, RowOrder.of([4, 5, 6, ABSENT, ABSENT, 0, 1], 10))
    made.fill(0, np.empty(7 * 16, np.uint8))
    assert reader.reads == [(8 + 4 * 16, 3 * 16), (8, 2 * 16)]


def test_another_order_is_another_version():
    table = np.zeros((4, 2), "<u4")
    versions = {
        DerivedReader("view", {"e": rows_of(table, RowOrder.of(sources, 4))[0]}).version
        for sources in ([0, 1, 2], [0, 2, 1], [0, 1, ABSENT], [0, 1])
    }
    assert len(versions) == 4
