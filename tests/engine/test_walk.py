"""The walk: the same output whatever the workers, within its memory, and errors that stop it."""

from __future__ import annotations

import threading
import tracemalloc

import numpy as np
import pytest
from engine.helpers import Memory, Sink, add, copies, run, within, write_file
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engine import walk
from pipeline.engine.plan import Input, Job, Plan, Ragged
from pipeline.errors import UsageError
from pipeline.storage.local.store import LocalStore
from pipeline.storage.remote import REMOTE_WORKERS
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.units import MIB

PATIENCE_S = 30
SHAPES = st.tuples(st.integers(0, 300), st.sampled_from([1, 2, 4, 8]), st.integers(0, 9))


def random_bytes(count: int, seed: int = 1) -> bytes:
    return np.random.default_rng(seed).bytes(count)


@pytest.mark.parametrize("workers", [1, 2, 16])
def test_all_bytes_arrive_once_whatever_the_number_of_workers(workers):
    counts = [5, 0, 3 * CHUNK_ELEMENTS + 1, 1, CHUNK_ELEMENTS, 7 * 1000]
    data = random_bytes(sum(counts))
    sink = Sink(len(data))
    within(PATIENCE_S, lambda: run(copies(counts), [Memory(data)], [sink], workers=workers))
    assert bytes(sink.data) == data
    assert set(sink.times.tolist()) == {1}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(SHAPES, max_size=30),
    st.sampled_from([1, 2, 7, 16]),
    st.sampled_from([64, 1000, MIB]),
    st.booleans(),
)
def test_kernels_get_the_bytes_that_the_plan_says(shapes, workers, block_bytes, remote):
    data = [random_bytes(4000, seed) for seed in (1, 2)]
    jobs, at = [], 0
    for count, itemsize, place in shapes:
        own = Input(0, 13 * place, itemsize, count)
        shorter = Input(1, 7 * place, itemsize, count // 2)
        jobs.append(Job(0, at, itemsize, count, (own, None, shorter)))
        at += count * itemsize
    wanted = bytearray(at)
    for job in jobs:
        total = np.zeros(job.count * job.itemsize, np.uint8)
        for source in (job.inputs[0], job.inputs[2]):
            part = data[source.reader][source.offset : source.offset + source.nbytes]
            total[: source.nbytes] += np.frombuffer(part, np.uint8)
        wanted[job.offset : job.offset + len(total)] = total.tobytes()
    sink = Sink(at, block_bytes)
    readers = [Memory(part, is_remote=remote) for part in data]
    run(Plan(jobs), readers, [sink], make_kernel=lambda: add, workers=workers)
    assert sink.data == wanted


def test_inputs_lie_aligned_in_memory_wherever_they_lie_in_their_files():
    seen = []

    def look(part, inputs, out):
        arrays = zip((*inputs, out), (2, 2, 8), strict=True)
        seen.extend(array.ctypes.data % size for array, size in arrays)
        return b""

    jobs = [
        Job(0, 24 * i, 8, 3, (Input(0, 3 + 17 * i, 2, 3), Input(0, 40 + 6 * i, 2, 3))) for i in range(9)
    ]
    run(Plan(jobs), [Memory(bytes(500))], [Sink(24 * 9)], make_kernel=lambda: look)
    assert len(seen) == 27
    assert set(seen) == {0}


def test_outputs_go_to_their_writers():
    data = random_bytes(1000)
    jobs = [Job(w, 10, 1, 500, (Input(0, 500 * w, 1, 500),)) for w in (0, 1)]
    sinks = [Sink(510), Sink(510)]
    run(Plan(jobs), [Memory(data)], sinks)
    assert [bytes(sink.data[10:]) for sink in sinks] == [data[:500], data[500:]]


def test_ragged_inputs_and_missing_ones_reach_the_kernel():
    seen = {}

    def look(part, inputs, out):
        seen[part.chunk] = [array.tobytes() for array in inputs]
        return b""

    bounds = np.array([0, 3, 3, 5], np.uint64)
    ragged = Ragged(0, 2, bounds[:-1], bounds[1:])
    job = Job(0, 0, 1, 3 * CHUNK_ELEMENTS, (ragged, None, Input(0, 0, 1, 1)))
    run(Plan([job]), [Memory(b"__abcde")], [Sink(3 * CHUNK_ELEMENTS)], make_kernel=lambda: look)
    assert seen == {0: [b"abc", b"", b"_"], 1: [b"", b"", b""], 2: [b"de", b"", b""]}


def test_20000_tiny_tensors_are_walked_in_few_large_writes():
    counts = [1 + i % 50 for i in range(20_000)]
    data = random_bytes(2 * sum(counts))
    sink = Sink(len(data))
    within(PATIENCE_S, lambda: run(copies(counts, 2), [Memory(data)], [sink], workers=4))
    assert bytes(sink.data) == data
    assert len(sink.calls) <= 2 + len(data) // MIB


def test_a_tensor_larger_than_the_memory_passes_through_it(tmp_path):
    count = 48 * MIB
    reader = write_file(tmp_path / "in", random_bytes(MIB) * 48)
    plan = copies([count])
    with LocalStore(tmp_path).create("out", size_hint=count, overwrite=False) as writer:
        tracemalloc.start()
        try:
            run(plan, [reader], [writer], memory=8 * MIB, workers=2)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        writer.commit()
    assert (tmp_path / "out").read_bytes() == (tmp_path / "in").read_bytes()
    assert peak < 8 * MIB


def test_too_little_memory_is_a_clear_error_before_anything_is_written():
    sink = Sink(MIB)
    with pytest.raises(UsageError, match=r"memory.*give --memory"):
        run(copies([MIB]), [Memory(bytes(MIB))], [sink], memory=1000)
    assert not sink.calls


@pytest.mark.parametrize("workers", [1, 3])
def test_no_more_threads_compute_than_asked_though_more_of_them_read(monkeypatch, workers):
    together = threading.Barrier(REMOTE_WORKERS)
    lock, now, most = threading.Lock(), 0, 0

    class Far(Memory):
        def read_into(self, offset, buffer):
            if not together.broken:  # all workers must be reading at once to get past this
                together.wait(PATIENCE_S)
            super().read_into(offset, buffer)

    def busy(part, inputs, out):
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.002)
        with lock:
            now -= 1
        return b""

    monkeypatch.setattr(walk, "REMOTE_BLOCK_BYTES", 1)
    size = 2 * REMOTE_WORKERS * CHUNK_ELEMENTS
    far = Far(bytes(size), is_remote=True)
    run(copies([size]), [far], [Sink(size, 1)], make_kernel=lambda: busy, workers=workers)
    assert not together.broken
    assert 1 <= most <= workers


def test_each_worker_has_a_kernel_of_its_own():
    owners: dict[int, set[int]] = {}

    def make():
        number = len(owners)
        owners[number] = set()

        def kernel(part, inputs, out):
            owners[number].add(threading.get_ident())
            threading.Event().wait(0.001)
            return b""

        return kernel

    run(copies([20 * CHUNK_ELEMENTS]), [Memory(bytes(20 * CHUNK_ELEMENTS))],
        [Sink(20 * CHUNK_ELEMENTS)], make_kernel=make, workers=4)  # fmt: skip
    assert len(owners) == 4
    assert all(len(threads) <= 1 for threads in owners.values())


def test_progress_adds_up_to_the_bytes_that_the_plan_moves():
    told = []
    plan = copies([3 * CHUNK_ELEMENTS, 10], gap=64)
    run(plan, [Memory(bytes(2 * MIB))], [Sink(2 * MIB)], advance=told.append)
    assert sum(told) == plan.moved_bytes
