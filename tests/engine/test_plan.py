"""A plan: every byte of every output once, in slices of one chunk and blocks of bounded size."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from engine.helpers import copies
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.engine.plan import ALIGNMENT, Input, Job, Plan, Ragged, Span
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS

COUNTS = st.one_of(
    st.integers(0, 3),
    st.integers(0, 3 * CHUNK_ELEMENTS),
    st.sampled_from([CHUNK_ELEMENTS - 1, CHUNK_ELEMENTS, CHUNK_ELEMENTS + 1, 2 * CHUNK_ELEMENTS]),
)


few = settings(max_examples=50, deadline=None)


@st.composite
def plans(draw) -> Plan:
    """Jobs one after another in some writers, with gaps here and there; inputs of other lengths."""
    jobs = []
    for writer in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, 200))
        for _ in range(draw(st.integers(0, 6))):
            count, itemsize = draw(COUNTS), draw(st.sampled_from([1, 2, 4, 8]))
            at += draw(st.sampled_from([0, 0, 0, 64]))
            shorter = draw(st.integers(0, count))
            jobs.append(
                Job(
                    writer, at, itemsize, count,
                    (Input(0, at, itemsize, count), Input(1, 7, 2, shorter), None),
                )
            )  # fmt: skip
            at += count * itemsize
    return Plan(jobs)


def ragged(sizes: list[int]) -> Ragged:
    """An input of reader 3, from 1005 on, whose chunks have these sizes."""
    bounds = np.concatenate(([5], 5 + np.cumsum(sizes, dtype=np.int64))).astype("<u8")
    return Ragged(3, 1000, bounds[:-1], bounds[1:])


def largest(plan: Plan, block_bytes: int) -> tuple[int, int]:
    """What `largest_block` is to find, by looking at every block."""
    blocks = list(plan.blocks(block_bytes))
    nbytes = (each.read_bytes + each.nbytes + ALIGNMENT * (len(each.spans) + 1) for each in blocks)
    elements = (sum(part.count for part in each.slices) for each in blocks)
    return max(nbytes, default=0), max(elements, default=0)


def ranges_of_jobs(plan: Plan) -> list[tuple[int, int, int]]:
    return sorted((j.writer, j.offset, j.count * j.itemsize) for j in plan.jobs if j.count)


@few
@given(plans())
def test_slices_cover_every_byte_of_every_job_once(plan):
    ends = {number: job.offset for number, job in enumerate(plan.jobs)}
    for part in plan.slices():
        assert part.offset == ends[part.job]
        assert part.nbytes == part.count * plan.jobs[part.job].itemsize > 0
        ends[part.job] += part.nbytes
    for number, job in enumerate(plan.jobs):
        assert ends[number] == job.offset + job.count * job.itemsize


@few
@given(plans())
def test_a_slice_is_one_chunk_and_knows_its_place(plan):
    for row, part in enumerate(plan.slices()):
        assert part.row == row == plan.first_rows[part.job] + part.chunk
        assert part.start == part.chunk * CHUNK_ELEMENTS
        assert part.count <= CHUNK_ELEMENTS
    assert plan.rows == plan.first_rows[-1] == sum(1 for _ in plan.slices())


@few
@given(plans(), st.integers(1, 16 << 20))
def test_blocks_hold_all_slices_in_order_and_each_writes_one_range(plan, block_bytes):
    blocks = list(plan.blocks(block_bytes))
    assert [block.number for block in blocks] == list(range(len(blocks)))
    assert [part for block in blocks for part in block.slices] == list(plan.slices())
    for block in blocks:
        at = block.offset
        for part in block.slices:
            assert (plan.jobs[part.job].writer, part.offset) == (block.writer, at)
            at += part.nbytes
        assert block.nbytes == at - block.offset


@few
@given(plans(), st.integers(1, 16 << 20))
def test_a_block_is_no_larger_than_asked_or_is_a_single_slice(plan, block_bytes):
    for block in plan.blocks(block_bytes):
        assert block.nbytes <= block_bytes or len(block.slices) == 1


@few
@given(plans(), st.integers(1, 16 << 20))
def test_neighbours_that_fit_share_a_block(plan, block_bytes):
    blocks = list(plan.blocks(block_bytes))
    for left, right in pairwise(blocks):
        touching = left.writer == right.writer and left.offset + left.nbytes == right.offset
        assert not touching or left.nbytes + right.slices[0].nbytes > block_bytes


@few
@given(plans(), st.integers(1, 16 << 20))
def test_the_memory_for_a_block_is_enough_for_any_block(plan, block_bytes):
    room = plan.largest_block(block_bytes)[0]
    for block in plan.blocks(block_bytes):
        ranges = [block.nbytes, *(span.nbytes for span in block.spans)]
        assert sum(-(-size // ALIGNMENT) * ALIGNMENT for size in ranges) <= room


@few
@given(plans(), st.integers(1, 5 << 20), st.integers(0, 12), st.sampled_from([0, 2, 4]))
def test_the_largest_block_is_found_without_looking_at_all_of_a_large_tensor(
    plan, block_bytes, chunks, itemsize
):
    count = chunks * CHUNK_ELEMENTS + 77
    large = Job(None if itemsize == 0 else 0, 0, itemsize, count, (Input(0, 0, 2, count), None))
    plan = Plan([*plan.jobs[:3], large, *plan.jobs[3:]])
    assert plan.largest_block(block_bytes) == largest(plan, block_bytes)


@few
@given(
    plans(),
    st.integers(1, 5 << 20),
    st.lists(st.sampled_from([0, 50, 3000, 1 << 20]), max_size=12),
    st.integers(0, 5),
    st.sampled_from([0, 2]),
)
@example(Plan([]), 2 << 20, [*[0] * 9, 1 << 20], 0, 0)
def test_chunks_of_unlike_sizes_have_room_and_no_more_than_if_all_were_the_largest(
    plan, block_bytes, sizes, more, itemsize
):
    count = (len(sizes) + more) * CHUNK_ELEMENTS

    def reading(sizes: list[int]) -> Plan:
        inputs = (Input(0, 0, 2, count), ragged(sizes))
        large = Job(0 if itemsize else None, 0, itemsize, count, inputs)
        return Plan([*plan.jobs[:3], large, *plan.jobs[3:]])

    as_they_are = reading(sizes)
    room, elements = as_they_are.largest_block(block_bytes)
    needed, wanted = largest(as_they_are, block_bytes)
    enough, _ = largest(reading([max(sizes, default=0)] * len(sizes)), block_bytes)
    assert needed <= room <= max(needed, enough)
    assert elements == wanted


@pytest.mark.parametrize("sizes", [[], [50, 0, 70]], ids=["alike", "of unlike sizes"])
def test_looking_for_the_largest_block_takes_no_longer_where_a_tensor_is_larger(monkeypatch, sizes):
    block, looked_at = Plan._block, []
    monkeypatch.setattr(Plan, "_block", lambda *args: looked_at.append(1) or block(*args))

    def effort(chunks: int) -> int:
        looked_at.clear()
        count = chunks * CHUNK_ELEMENTS
        more = [ragged(sizes * (chunks // 3))] if sizes else []
        Plan([Job(0, 0, 2, count, (Input(0, 0, 2, count), *more))]).largest_block(1 << 20)
        return len(looked_at)

    assert effort(9000) == effort(9) < 9


@few
@given(plans())
def test_totals_are_those_of_the_slices(plan):
    parts = list(plan.slices())
    assert plan.written_bytes == sum(part.nbytes for part in parts)
    assert plan.read_bytes == sum(span.nbytes for part in parts for span in part.spans if span)
    assert plan.moved_bytes == plan.read_bytes + plan.written_bytes
    assert plan.moved_bytes == sum(block.moved_bytes for block in plan.blocks(1 << 20))


@few
@given(plans())
def test_an_input_is_read_once_as_far_as_it_goes(plan):
    for number, job in enumerate(plan.jobs):
        parts = [part for part in plan.slices() if part.job == number]
        for column, source in enumerate(job.inputs):
            spans = [part.spans[column] for part in parts]
            found = [span for span in spans if span]
            assert found == spans[: len(found)]  # what is missing is at the end
            assert sum(span.nbytes for span in found) == (source.nbytes if source else 0)
            at = source.offset if source else 0
            for span in found:
                assert (span.reader, span.offset) == (source.reader, at)
                at += span.nbytes


@few
@given(st.lists(st.integers(0, 100), max_size=6), st.integers(0, 6 * CHUNK_ELEMENTS))
def test_an_input_of_ragged_chunks_is_read_chunk_by_chunk(sizes, count):
    source = ragged(sizes)
    plan = Plan([Job(0, 0, 1, count, (source,))])
    at = 1005
    for part in plan.slices():
        size = sizes[part.chunk] if part.chunk < len(sizes) else 0
        assert part.spans == ((Span(3, at, size),) if size else (None,))
        at += size
    assert source.nbytes == sum(sizes)


def test_an_empty_tensor_and_an_empty_plan_make_no_work():
    for plan in (Plan([]), copies([0, 0])):
        assert (plan.rows, plan.moved_bytes, plan.largest_block(1 << 20)[0]) == (0, 0, 0)
        assert list(plan.blocks(1 << 20)) == []


def test_a_scalar_is_a_slice_of_one_element():
    (part,) = copies([1], itemsize=2).slices()
    assert (part.count, part.nbytes, part.spans) == (1, 2, (Span(0, 0, 2, 2),))


def test_what_is_only_read_is_cut_into_blocks_too():
    jobs = [Job(None, 0, 0, 5 * CHUNK_ELEMENTS, (Input(0, 0, 2, 5 * CHUNK_ELEMENTS),))] * 3
    plan = Plan(jobs)
    blocks = list(plan.blocks(2 * 2 * CHUNK_ELEMENTS))
    assert {len(block.slices) for block in blocks} <= {1, 2}
    assert plan.largest_block(2 * 2 * CHUNK_ELEMENTS)[0] < 5 * CHUNK_ELEMENTS * 2
    assert (plan.written_bytes, plan.moved_bytes) == (0, plan.read_bytes)
    assert sum(block.moved_bytes for block in blocks) == plan.read_bytes
