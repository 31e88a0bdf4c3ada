"""Some of the runs that `python -m tests.chaos` makes; and whether it sees what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from effort import times

from tests.chaos.profiles import PROFILES, Profile
from tests.chaos.runs import Chaos, Outcome
from tests.servers.faults import Fault

SEED = 3
RUNS = times(3, 50)
WIRE = PROFILES["wire"]


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chaos]:
    with Chaos(tmp_path_factory.mktemp("chaos"), SEED) as made:
        yield made


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    """Of runs: each has a place of its own."""
    return count(1000)


@pytest.mark.slow
def test_a_spoiled_wire_leaves_exact_bytes_or_one_clear_error(chaos: Chaos) -> None:
    outcomes = [chaos.run(number, WIRE) for number in range(RUNS)]
    again = f"python -m tests.chaos --seed {SEED} --only"
    bad = [
        (f"{again} {each.number}", each.wrong, each.hung) for each in outcomes if each.wrong + each.hung
    ]
    assert not bad
    results = [each.result for each in outcomes]
    assert results.count("failed clearly") <= 1, [each.errors for each in outcomes]
    assert sum(each.faults.total() for each in outcomes) > RUNS


def test_a_throttled_account_is_got_over(chaos: Chaos, numbers: Iterator[int]) -> None:
    outcomes = [chaos.run(next(numbers), PROFILES["throttled"]) for _ in range(2)]
    assert [each.result for each in outcomes] == ["succeeded"] * 2, [each.errors for each in outcomes]
    assert all(each.faults["503"] > 5 for each in outcomes)


# -- does it see anything? ------------------------------------------------------------------------


@pytest.fixture
def denied(chaos: Chaos, numbers: Iterator[int]) -> Outcome:
    """A run whose every request is refused."""
    return chaos.run(next(numbers), Profile((Fault("status", status=403),), 1.0, 0.0))


def test_a_refusal_is_a_clear_failure_and_the_next_run_succeeds(denied: Outcome) -> None:
    assert (denied.result, denied.wrong) == ("failed clearly", [])
    assert [error.partition(":")[0] for error in denied.errors] == ["compute", "apply"]


def test_a_run_that_leaves_other_bytes_is_called_wrong(
    chaos: Chaos, numbers: Iterator[int], monkeypatch
) -> None:
    for source in ("azure", "hub"):
        monkeypatch.setitem(chaos.references, f"{source} None", {"": b"what another run wrote"})
    outcome = chaos.run(next(numbers), WIRE, 0.0)
    assert outcome.result == "wrong"
    assert "other bytes" in outcome.wrong[0]


def test_a_command_that_does_not_end_is_called_hung(
    chaos: Chaos, numbers: Iterator[int], monkeypatch
) -> None:
    monkeypatch.setattr(chaos, "cap_s", 1.0)
    outcome = chaos.run(next(numbers), Profile((Fault("delay", seconds=20),), 1.0, 0.0))
    assert (outcome.result, outcome.hung) == ("hung", ["compute"])
    assert "cli.py" in outcome.traces[0]
