"""The tail: what blocks leave behind lies in the plan's order, whoever finishes first."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from engine.helpers import Memory, Sink, copies, run, within
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine import tail as tail_module
from pipeline.engine.tail import OrderedTail
from pipeline.storage.local.store import LocalStore
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.binary(max_size=30), max_size=12), st.randoms(), st.integers(1, 64), st.integers(0, 9)
)  # fmt: skip
def test_payloads_lie_in_the_order_of_blocks_in_whatever_order_they_come(payloads, random, block, start):
    sink = Sink(1000, block)
    tail = OrderedTail(sink, start)
    order = list(enumerate(payloads))
    random.shuffle(order)
    for number, payload in order:
        tail.put(number, payload)
    tail.flush()
    wanted = b"".join(payloads)
    assert tail.end == start + len(wanted)
    assert bytes(sink.data[start : tail.end]) == wanted
    assert set(sink.times[start : tail.end].tolist()) <= {1}
    assert all(size == block for _, size in sink.calls[:-1])


def test_a_payload_in_parts_is_their_sum():
    sink = Sink(100, 8)
    tail = OrderedTail(sink, 0)
    tail.put(1, b"x" * 20, b"", b"y")
    tail.put(0, b"a", b"b" * 3)
    tail.put(2)
    tail.flush()
    assert bytes(sink.data[: tail.end]) == b"abbb" + b"x" * 20 + b"y"


def test_what_is_appended_lies_behind_everything_and_knows_its_place():
    sink = Sink(100, 8)
    tail = OrderedTail(sink, 10)
    tail.put(1, b"bbb")
    tail.put(0, b"aaaaaaaaa")
    assert tail.append(b"table") == 22
    assert tail.append(b"") == tail.end == 27
    tail.flush()
    assert bytes(sink.data[10:27]) == b"aaaaaaaaabbbtable"


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_a_walk_leaves_the_same_tail_whatever_its_workers(workers, tmp_path):
    chunks = 60

    def uneven(part, inputs, out):
        time.sleep((part.row * 7 % 5) / 1000)
        return f"[{part.row}]".encode() * (part.row % 4)

    size = chunks * CHUNK_ELEMENTS
    with LocalStore(tmp_path).create("tail", size_hint=0, overwrite=False) as writer:
        tail = OrderedTail(writer, 0)
        source = Memory(bytes(size))
        run(
            copies([size]),
            [source],
            [Sink(size)],
            make_kernel=lambda: uneven,
            workers=workers,
            tail=tail,
        )
        tail.flush()
        writer.commit()
    wanted = b"".join(f"[{row}]".encode() * (row % 4) for row in range(chunks))
    assert (tmp_path / "tail").read_bytes() == wanted


def test_who_runs_far_ahead_waits_until_those_before_have_come(monkeypatch):
    monkeypatch.setattr(tail_module, "PENDING_BYTES", 100)
    tail = OrderedTail(Sink(1000, 10), 0)
    tail.put(1, b"b" * 90)
    late = threading.Thread(target=tail.put, args=(2, b"c" * 90))
    late.start()
    late.join(0.1)
    assert late.is_alive()
    tail.put(0, b"a" * 200)  # it is its turn: never waits
    late.join(10)
    assert not late.is_alive()
    assert tail.end == 380


def test_what_is_being_written_is_held_until_it_is(monkeypatch):
    """A slow upload does not let others pile up behind it."""
    monkeypatch.setattr(tail_module, "PENDING_BYTES", 100)
    slow, done = threading.Event(), threading.Event()

    class Slow(Sink):
        def write(self, offset, data):
            slow.set()
            assert done.wait(10)
            super().write(offset, data)

    tail = OrderedTail(Slow(1000, 10), 0)
    first = threading.Thread(target=tail.put, args=(0, b"a" * 90))
    first.start()
    assert slow.wait(10)
    ahead = threading.Thread(target=tail.put, args=(2, b"c" * 50))
    ahead.start()
    ahead.join(0.1)
    assert ahead.is_alive()
    done.set()
    for thread in (first, ahead):
        thread.join(10)
        assert not thread.is_alive()


def test_a_payload_larger_than_what_may_wait_is_taken_in_its_turn(monkeypatch):
    monkeypatch.setattr(tail_module, "PENDING_BYTES", 100)
    sink = Sink(1000, 64)
    tail = OrderedTail(sink, 0)
    others = [threading.Thread(target=tail.put, args=(n, bytes([n]) * 150)) for n in (3, 2, 1)]
    for thread in others:
        thread.start()
    within(10, lambda: tail.put(0, bytes([0]) * 150))
    for thread in others:
        thread.join(10)
    tail.flush()
    assert np.frombuffer(sink.data[:600], np.uint8).tolist() == sorted([0, 1, 2, 3] * 150)


def test_giving_up_lets_everybody_go(monkeypatch):
    monkeypatch.setattr(tail_module, "PENDING_BYTES", 10)
    tail = OrderedTail(Sink(1000), 0)
    waiting = [threading.Thread(target=tail.put, args=(n, b"x" * 50)) for n in (1, 2, 3)]
    for thread in waiting:
        thread.start()
    tail.give_up()
    for thread in waiting:
        thread.join(10)
        assert not thread.is_alive()
