"""What is tried again, how often, and how long it is waited for."""

from __future__ import annotations

import pytest
from storage.helpers import fail

from pipeline.errors import NotFound, Unreachable
from pipeline.storage import retry
from pipeline.storage.retry import TRIES, retried, retry_after_s


def test_what_is_unreachable_is_asked_again_after_waits_that_double(waits: list[float]) -> None:
    assert retried(fail(Unreachable("x"), 4)) == 1
    assert [round(wait) for wait in waits] == [pytest.approx(n, rel=0.25) for n in (1, 2, 4, 8)]


def test_after_the_last_try_the_error_is_raised(waits: list[float]) -> None:
    with pytest.raises(Unreachable):
        retried(fail(Unreachable("x"), TRIES))
    assert len(waits) == TRIES - 1


def test_anything_else_is_not_asked_again(waits: list[float]) -> None:
    with pytest.raises(NotFound):
        retried(fail(NotFound("x"), 1))
    assert not waits


def test_a_wait_that_the_service_asks_for_is_kept(waits: list[float]) -> None:
    retried(fail(Unreachable("x", retry_after_s=30), 1))
    retried(fail(Unreachable("x", retry_after_s=86_400), 1))
    assert waits == [30, retry.LONGEST_RETRY_AFTER_S]


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0", 0), ("-3", 0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0), ("soon", None), (None, None)],
)
def test_retry_after_is_a_number_or_a_date(header: str | None, seconds: float | None) -> None:
    assert retry_after_s(header) == seconds
