"""Whether a run that left its mark is still there: known for dead only if it surely is."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import pipeline
from pipeline.storage.process import has_ended, this_process

ROOT = Path(pipeline.__file__).resolve().parents[1]
PROGRAM = "from pipeline.storage.process import *; print(this_process(), flush=True); input()"


def test_a_process_has_ended_when_it_was_killed_and_not_before() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout
        other = program.stdout.readline().strip()
        assert not has_ended(other)
        program.kill()
        program.stdout.read()  # ends when it does
        deadline = time.monotonic() + 10
        while not has_ended(other):  # before anybody has asked for its exit code
            assert time.monotonic() < deadline
        program.wait()
    assert has_ended(other)


def test_this_process_is_there() -> None:
    assert this_process()
    assert not has_ended(this_process())


def test_another_process_of_the_same_number_is_not_taken_for_it() -> None:
    before, _, started = this_process().rpartition("@")
    assert has_ended(f"{before}@{int(started) - 1}")


@pytest.mark.parametrize("process", ["", "x", "elsewhere/1@1", "/", "a/b/99999999999999999999@1"])
def test_of_other_machines_and_of_nonsense_nothing_is_known(process: str) -> None:
    assert not has_ended(process)


@pytest.mark.parametrize("pid", ["x", "-1", "9" * 30])
def test_of_a_number_that_is_none_nothing_is_known(pid: str) -> None:
    assert not has_ended(f"{this_process().rpartition('/')[0]}/{pid}@1")
