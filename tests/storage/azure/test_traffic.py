"""How many requests are under way: more while that pays, fewer when the service is busy."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from storage.helpers import fail

from pipeline.errors import AccessError, NotFound, Unreachable
from pipeline.storage.azure import traffic as azure_traffic
from pipeline.storage.azure.traffic import FIRST_REQUESTS, FIRST_TRIES, Traffic
from pipeline.storage.retry import TRIES

MIB = 1 << 20


@pytest.fixture
def traffic() -> Traffic:
    return Traffic()


def test_an_account_that_never_answered_is_not_waited_for_long(
    waits: list[float], traffic: Traffic
) -> None:
    with pytest.raises(Unreachable):
        traffic.ask("x", fail(Unreachable("x"), TRIES))
    assert len(waits) <= FIRST_TRIES


def test_one_that_has_answered_is(waits: list[float], traffic: Traffic) -> None:
    with pytest.raises(NotFound):
        traffic.ask("x", fail(NotFound("x"), 1))
    assert traffic.ask("x", fail(Unreachable("x"), TRIES - 1)) == 1


def test_one_that_is_only_busy_is_waited_for(waits: list[float], traffic: Traffic) -> None:
    assert traffic.ask("x", fail(Unreachable("x", status=503), TRIES)) == 1


def test_to_be_refused_is_no_answer_to_wait_on(waits: list[float], traffic: Traffic) -> None:
    with pytest.raises(AccessError):
        traffic.ask("x", fail(AccessError("x"), 1))
    with pytest.raises(Unreachable):
        traffic.ask("x", fail(Unreachable("x"), TRIES))
    assert len(waits) <= FIRST_TRIES


def test_no_more_requests_are_under_way_than_the_limit(traffic: Traffic) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def action() -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= 1

    threads = [threading.Thread(target=traffic.ask, args=("x", action)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == FIRST_REQUESTS


def test_a_busy_service_gets_half_as_many_once_for_those_under_way_together(
    waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    traffic = Traffic(first=16)
    clock = iter(range(100))
    monkeypatch.setattr(azure_traffic.time, "monotonic", lambda: next(clock))
    busy = Unreachable("x", status=503)
    barrier = threading.Barrier(4)

    def action() -> None:
        barrier.wait()
        raise busy

    def ask() -> None:
        with pytest.raises(Unreachable), traffic._turn_of_one(0):
            action()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert traffic.limit == 8
    with pytest.raises(Unreachable), traffic._turn_of_one(0):
        raise busy
    assert traffic.limit == 4


def test_more_connections_are_kept_only_while_they_bring_more(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(azure_traffic.time, "monotonic", lambda: now)
    traffic = Traffic(first=4, most=32)

    def transfer(rate: Callable[[int], float]) -> None:
        nonlocal now
        for _ in range(400):
            now += MIB / rate(traffic.limit)
            traffic.ask("x", lambda: None, nbytes=MIB)

    transfer(lambda limit: 10 * MIB * min(limit, 12))
    assert 12 <= traffic.limit <= 16
    transfer(lambda limit: 120 * MIB)
    assert 12 <= traffic.limit <= 16
