"""How a plan is fitted into limits: the most workers and the largest blocks that memory allows."""

from __future__ import annotations

import re

import pytest
from engine.helpers import Sink, copies
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine.plan import Plan
from pipeline.engine.schedule import SMALLEST_BLOCK_BYTES, Limits, schedule
from pipeline.engine.tail import OrderedTail
from pipeline.errors import UsageError
from pipeline.storage.remote import REMOTE_WORKERS
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.units import MIB, parse_bytes

SIZES = st.lists(st.integers(0, 4 * CHUNK_ELEMENTS), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(
    SIZES, st.sampled_from([1, 2, 4, 8]), st.integers(1, 1 << 30), st.integers(1, 64),
    st.booleans(), st.sampled_from([MIB, 8 * MIB, 32 * MIB]), st.integers(0, 20 * MIB),
)  # fmt: skip
def test_a_schedule_never_takes_more_than_the_memory(
    counts, itemsize, memory, workers, remote, block_bytes, scratch
):
    plan = copies(counts, itemsize)
    try:
        found = schedule(
            plan,
            Limits(memory, workers),
            remote=remote,
            block_bytes=block_bytes,
            scratch_bytes=scratch,
        )
    except UsageError:
        assert memory < plan.largest_block(SMALLEST_BLOCK_BYTES)[0] + scratch
        return
    each = plan.largest_block(found.block_bytes)[0] + scratch
    assert found.workers * each <= memory
    assert found.buffer_bytes == each - scratch
    assert 1 <= found.workers <= max(workers, REMOTE_WORKERS if remote else 1)
    assert SMALLEST_BLOCK_BYTES <= found.block_bytes <= block_bytes


@settings(max_examples=50, deadline=None)
@given(
    SIZES, st.sampled_from([1, 2, 4, 8]), st.integers(0, 400 * MIB), st.booleans(), st.integers(0, 20)
)  # fmt: skip
def test_the_memory_that_the_error_asks_for_is_enough(counts, itemsize, scratch, has_tail, left):
    plan = copies([1, *counts], itemsize)
    tail = OrderedTail(Sink(0), 0) if has_tail else None
    options = {"remote": False, "block_bytes": 8 * MIB, "scratch_bytes": scratch}
    options |= {"tail": tail, "left_bytes": left}
    with pytest.raises(UsageError) as error:
        schedule(plan, Limits(1, 4), **options)
    advised = re.search(r"--memory (\S+)", str(error.value))
    assert advised is not None
    assert schedule(plan, Limits(parse_bytes(advised[1]), 4), **options).workers >= 1


def test_a_tail_and_what_is_left_for_it_have_their_share_of_the_memory():
    plan = copies([64 * MIB])
    tail = OrderedTail(Sink(0), 0)
    options = {"remote": False, "block_bytes": MIB, "scratch_bytes": 0}
    assert schedule(plan, Limits(40 * MIB, 99), **options).workers == 19  # 2 MiB each, and a little
    found = schedule(plan, Limits(40 * MIB, 99), tail=tail, **options)
    assert found.workers == 16  # one MiB for a piece and five for what waits
    found = schedule(plan, Limits(40 * MIB, 99), tail=tail, left_bytes=2, **options)
    assert found.workers == 8


def test_memory_goes_to_workers_first_and_to_blocks_second():
    plan = copies([64 * MIB])
    wide = schedule(plan, Limits(1 << 30, 4), remote=False, block_bytes=8 * MIB, scratch_bytes=0)
    assert (wide.workers, wide.block_bytes) == (4, 8 * MIB)
    tight = schedule(plan, Limits(20 * MIB, 4), remote=False, block_bytes=8 * MIB, scratch_bytes=0)
    assert (tight.workers, tight.block_bytes) == (4, 2 * MIB)
    tightest = schedule(plan, Limits(5 * MIB, 4), remote=False, block_bytes=8 * MIB, scratch_bytes=0)
    assert (tightest.workers, tightest.block_bytes) == (2, MIB)


def test_round_trips_get_more_workers_than_there_are_cores():
    plan = copies([64 * MIB])
    near = schedule(plan, Limits(1 << 30, 2), remote=False, block_bytes=MIB, scratch_bytes=0)
    far = schedule(plan, Limits(1 << 30, 2), remote=True, block_bytes=MIB, scratch_bytes=0)
    assert (near.workers, far.workers) == (2, REMOTE_WORKERS)


def test_an_empty_plan_fits_into_anything():
    found = schedule(Plan([]), Limits(1, 3), remote=False, block_bytes=MIB, scratch_bytes=0)
    assert (found.workers, found.buffer_bytes) == (3, 0)


@pytest.mark.parametrize("workers", [0, -1])
def test_less_than_one_worker_is_refused(workers):
    with pytest.raises(UsageError, match="workers"):
        Limits.of(MIB, workers)


def test_unless_told_otherwise_there_is_a_worker_for_each_core():
    assert Limits.of(MIB, None).workers >= 1
    assert Limits.of(MIB, 7) == Limits(MIB, 7)
