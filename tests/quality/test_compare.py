"""A model against others: shares, flips, the gap recovered and the slope, with their standard errors."""

import math

import numpy as np
import pytest

from pipeline.quality.compare import flips, gap_recovered, transfer_slope
from pipeline.quality.items import Item
from pipeline.quality.report import Measurement
from pipeline.quality.scores import mean, overall_figures, task_figures


def items(task: str, *scores: float) -> list[Item]:
    return [Item("set", task, str(number), float(score)) for number, score in enumerate(scores)]


def scores_of(answers: list[Item]) -> dict[str, Measurement]:
    return {name.removeprefix("task:"): each for name, each in task_figures(answers).items()}


def test_a_share_has_the_standard_error_of_a_mean():
    assert mean([1, 1, 0, 1]) == Measurement(0.75, pytest.approx(math.sqrt(0.75 * 0.25 / 3)), 4)
    assert mean([1.0]) == Measurement(1.0, None, 1)
    assert math.isnan(mean([]).value)


def test_figures_over_the_tasks_count_each_task_the_same():
    answers = items("a", 1, 1, 1, 0) + items("b", 0, 1)
    tasks = scores_of(answers)
    overall = overall_figures(answers, tasks)
    assert overall["task.mean"].value == pytest.approx((0.75 + 0.5) / 2)
    errors = [tasks["a"].standard_error, tasks["b"].standard_error]
    assert overall["task.mean"].standard_error == pytest.approx(math.hypot(*errors) / 2)
    assert overall["task.min"] == tasks["b"]
    assert "eos_rate" not in overall


def test_flips_say_what_equal_accuracy_hides():
    model, reference = items("a", 1, 0, 1, 0), items("a", 1, 1, 0, 0)
    found = flips(model, reference)
    assert found["flips"].value == found["flips:a"].value == 0.5
    assert found["flips:a.lost"].value == found["flips:a.gained"].value == 0.25
    assert flips(model, model)["flips"].value == 0


def test_flips_pair_items_by_task_and_id_and_not_by_place():
    model = items("a", 1, 0, 1)
    assert flips(model, model[::-1])["flips"].value == 0
    assert flips(model, items("b", 1, 0, 1)) == {}


def test_the_gap_is_per_task_with_mean_and_least():
    model = items("a", 1, 1, 1, 0) + items("b", 1, 0, 0, 0)
    base = items("a", 0, 0, 0, 0) + items("b", 0, 0, 0, 0)
    reference = items("a", 1, 1, 1, 1) + items("b", 1, 1, 0, 0)
    sides = (model, base, reference)
    found = gap_recovered(*map(scores_of, sides), sides)
    assert found["gap_recovered:a"].value == 0.75
    assert found["gap_recovered:b"].value == 0.5
    assert found["gap_recovered.mean"].value == 0.625
    assert found["gap_recovered.min"] == found["gap_recovered:b"]


def test_a_task_without_a_gap_has_no_share_of_it_and_leaves_the_mean_alone():
    sides = [items("a", *a) + items("b", *b) for a, b in (((1, 0), (1, 1)), ((1, 0), (0, 0)), ((1, 0), (1, 1)))]
    found = gap_recovered(*map(scores_of, sides), tuple(sides))
    assert math.isnan(found["gap_recovered:a"].value)
    assert found["gap_recovered.mean"].value == found["gap_recovered.min"].value == 1


def test_the_gap_s_standard_error_is_the_bootstrap_s():
    """Against an independent estimate: questions drawn again, 4000 times."""
    rng = np.random.default_rng(1)
    hard = rng.random(400)
    drawn = [(rng.random(400) < (1 - hard) * ease).astype(float) for ease in (0.9, 0.3, 1.0)]
    sides = tuple(items("a", *each) for each in drawn)
    error = gap_recovered(*map(scores_of, sides), sides)["gap_recovered:a"].standard_error
    places = rng.integers(0, 400, (4000, 400))
    model, base, reference = (each[places].mean(1) for each in drawn)
    assert error == pytest.approx(((model - base) / (reference - base)).std(), rel=0.1)


def test_without_items_the_scores_count_as_independent():
    scores = [{"a": Measurement(value, 0.02, 100)} for value in (0.7, 0.2, 0.8)]
    found = gap_recovered(*scores)["gap_recovered:a"]
    assert found.value == pytest.approx(0.5 / 0.6)
    spread = math.hypot(1, 1 - found.value, found.value)
    assert found.standard_error == pytest.approx(0.02 * spread / 0.6)


def test_the_slope_is_that_of_actual_on_hypothetical_scores():
    donor_base = {name: Measurement(0.1) for name in "abc"}
    donor = {name: Measurement(0.1 + gain) for name, gain in zip("abc", (0.2, 0.4, 0.7), strict=True)}
    base = {name: Measurement(0.15) for name in "abc"}
    model = {
        name: Measurement(0.3 + 0.8 * gain) for name, gain in zip("abc", (0.2, 0.4, 0.7), strict=True)
    }
    slope = transfer_slope(model, base, donor, donor_base)["transfer_slope"]
    assert slope.value == pytest.approx(0.8)
    assert slope.standard_error == pytest.approx(0, abs=1e-9)
    model["c"] = Measurement(0.2)
    x, y = np.array([0.35, 0.55, 0.85]), np.array([0.46, 0.62, 0.2])
    expected, covariance = np.polyfit(x, y, 1, cov="unscaled")
    residuals = y - np.polyval(expected, x)
    slope = transfer_slope(model, base, donor, donor_base)["transfer_slope"]
    assert slope.value == pytest.approx(expected[0])
    assert slope.standard_error == pytest.approx(math.sqrt((residuals**2).sum() * covariance[0, 0]))


def test_the_slope_of_equal_or_single_scores_is_no_number():
    same = {name: Measurement(0.5) for name in "ab"}
    assert math.isnan(transfer_slope(same, same, same, same)["transfer_slope"].value)
    assert transfer_slope(same, {}, same, same) == {}
