"""Errors on the way: the first one stops every worker, is raised, and nothing hangs."""

from __future__ import annotations

import threading

import pytest
from engine.helpers import Memory, Sink, copies, copy, run, within, write_file

from pipeline.engine.tail import OrderedTail
from pipeline.errors import CorruptFile, StorageError
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS

PATIENCE_S = 30


def failing_kernel(part, inputs, out):
    if part.chunk == 5:
        raise CorruptFile("chunk 5 is bad")
    return b"x" * 100


def unmakeable():
    raise StorageError("no device")


def failing_advance(nbytes):
    raise StorageError("no terminal")


FAILURES = {
    "kernel": ({"make_kernel": lambda: failing_kernel}, {}, {}, "chunk 5 is bad"),
    "making a kernel": ({"make_kernel": unmakeable}, {}, {}, "no device"),
    "reader": ({}, {"fails_at": 5 * CHUNK_ELEMENTS}, {}, "on fire"),
    "writer": ({}, {}, {"fails_at": 5 * CHUNK_ELEMENTS}, "no space left"),
    "progress": ({"advance": failing_advance}, {}, {}, "no terminal"),
}


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("failure", FAILURES)
def test_an_error_stops_the_walk_and_is_raised(failure, workers, monkeypatch):
    monkeypatch.setattr("pipeline.engine.tail.PENDING_BYTES", 150)  # so that workers have to wait
    options, reader, writer, message = FAILURES[failure]
    size = 40 * CHUNK_ELEMENTS
    source, sink = Memory(bytes(size), **reader), Sink(size, **writer)
    arguments = {"make_kernel": lambda: copy, "tail": OrderedTail(Sink(10_000), 0), **options}
    with pytest.raises((CorruptFile, StorageError), match=message):
        within(
            PATIENCE_S,
            lambda: run(copies([size]), [source], [sink], workers=workers, **arguments),
        )
    assert len(sink.calls) < 40


def test_an_error_of_the_tails_writer_stops_the_walk_and_is_raised():
    size = 40 * CHUNK_ELEMENTS
    tail = OrderedTail(Sink(10_000, block_bytes=100, fails_at=500), 0)

    def chatty(part, inputs, out):
        return b"x" * 100

    with pytest.raises(StorageError, match="no space left"):
        within(
            PATIENCE_S,
            lambda: run(
                copies([size]), [Memory(bytes(size))], [Sink(size)],
                make_kernel=lambda: chatty, workers=8, tail=tail,
            ),
        )  # fmt: skip


def test_a_truncated_input_is_an_error_that_says_where_it_ends(tmp_path):
    reader = write_file(tmp_path / "in", bytes(1000))
    with pytest.raises(CorruptFile, match="ends at byte 1000"):
        run(copies([2000]), [reader], [Sink(2000)])


def test_an_interrupted_walk_ends_its_workers():
    def interrupted(part, inputs, out):
        raise KeyboardInterrupt

    size = 10 * CHUNK_ELEMENTS
    source, sink = Memory(bytes(size)), Sink(size)
    with pytest.raises(KeyboardInterrupt):
        within(
            PATIENCE_S,
            lambda: run(copies([size]), [source], [sink], make_kernel=lambda: interrupted),
        )
    assert not [t for t in threading.enumerate() if t.name.startswith("walk")]
