"""A few hundred of the hostile deltas that `python -m tests.fuzz` makes; and whether it sees faults."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from pipeline.errors import CorruptFile
from tests.fuzz import watch as watching
from tests.fuzz.corpus import Case, Corpus
from tests.fuzz.mutations import BLUNT, HEAVY, MUTATIONS
from tests.fuzz.watch import Watch

BATCHES, FILES = 6, 50
LIGHT = [mutate for mutate in MUTATIONS if mutate not in HEAVY]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return Corpus(tmp_path_factory.mktemp("sound"), heavy=0)


@pytest.fixture
def watch(tmp_path: Path, corpus: Corpus) -> Watch:
    return Watch(tmp_path, corpus)


def test_files_taken_apart_and_put_together_are_sound(corpus, watch):
    for case in corpus.sound():
        outcome = watch.run(case)
        assert (outcome.result, outcome.faults) == ("applied", []), case.name


@pytest.mark.parametrize("batch", range(BATCHES))
def test_a_hostile_file_ends_in_one_error_or_means_nothing(corpus, watch, batch):
    for number in range(FILES * batch, FILES * (batch + 1)):
        outcome = watch.run(corpus.case(number))
        assert outcome.faults == [], f"python -m tests.fuzz --heavy 0 --only {number}"


@pytest.mark.parametrize("part", range(3))
def test_every_kind_of_hostility_ends_so(corpus, watch, part):
    for number, mutate in enumerate(LIGHT[part::3]):
        random = Random(number)
        draft = corpus.draft(random)
        mutate(random, draft)
        data = draft.build(redigest=mutate not in BLUNT)
        outcome = watch.run(Case(number, mutate.__name__, data, damage=mutate in BLUNT))
        assert outcome.faults == [], mutate.__name__


def test_the_same_number_makes_the_same_file(tmp_path, corpus):
    again = Corpus(tmp_path, heavy=0)
    assert all(corpus.case(number).data == again.case(number).data for number in range(20))


# -- does the watch see anything? ---------------------------------------------------------------


@pytest.fixture
def sound(corpus: Corpus) -> Case:
    return corpus.sound()[0]


def faults_when_verify(monkeypatch, watch, case, action) -> str:
    monkeypatch.setattr(watching, "verify", lambda *_, **__: action())
    return "; ".join(watch.run(case).faults)


def test_another_exception_is_a_fault(monkeypatch, watch, sound):
    assert "ZeroDivisionError" in faults_when_verify(monkeypatch, watch, sound, lambda: 1 / 0)


def test_a_message_that_steers_a_terminal_is_a_fault(monkeypatch, watch, sound):
    def fail():
        raise type("Odd", (CorruptFile,), {"__str__": lambda self: "\x1b[2J"})("")

    assert "nobody can print" in faults_when_verify(monkeypatch, watch, sound, fail)


def test_a_file_elsewhere_is_a_fault(monkeypatch, watch, sound, tmp_path):
    there = tmp_path / "elsewhere"
    assert f"writes {there}" in faults_when_verify(monkeypatch, watch, sound, there.touch)


def test_a_file_left_behind_is_a_fault(monkeypatch, watch, sound, tmp_path):
    left = tmp_path / "work" / "left"
    assert "leaves" in faults_when_verify(monkeypatch, watch, sound, left.touch)


def test_slowness_and_large_memory_are_faults(monkeypatch, watch, sound):
    monkeypatch.setattr(watching, "SECONDS", 0.0)
    assert "verify: 0.0 s" in faults_when_verify(monkeypatch, watch, sound, lambda: None)
    monkeypatch.setattr(watching, "SECONDS", 60.0)
    monkeypatch.setattr(watching, "MEMORY", 64 << 20)
    found = faults_when_verify(monkeypatch, watch, sound, lambda: len(bytearray(b"x" * (100 << 20))))
    assert "MiB" in found


def test_damage_that_goes_unnoticed_is_a_fault(watch, corpus):
    other = next(case for case in corpus.sound() if case.name == "combination")
    assert "damage went unnoticed" in watch.run(Case(0, "x", other.data, damage=True)).faults
