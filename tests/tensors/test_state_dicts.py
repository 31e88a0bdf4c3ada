"""The method on state dicts in memory: the same formulas as the streamed commands."""

from __future__ import annotations

import pytest
import torch
from models import cast, formula, near, random_state, same_bits

from pipeline import apply_delta, calculate_delta, combine_deltas
from pipeline.errors import Mismatch, UsageError

HALVES = [torch.bfloat16, torch.float16]
FLOATS = [*HALVES, torch.float32, torch.float64]

BASE = random_state(1)
POST = near(BASE, 2)
OTHER = near(BASE, 3)


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_delta_is_post_minus_base_in_float32_or_float64(dtype):
    post, base = cast(POST, dtype), cast(BASE, torch.bfloat16)
    delta = calculate_delta(post, base)
    width = torch.float64 if dtype == torch.float64 else torch.float32
    assert list(delta) == list(post)
    for name, change in delta.items():
        assert same_bits(change, post[name].to(width) - base[name].to(width))


@pytest.mark.parametrize("scale", [1.0, 0.0, -1.0, 0.3])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_delta_is_added_wide_and_rounded_once_to_the_bases_format(dtype, scale):
    post, base, other = cast(POST), cast(BASE), cast(OTHER, dtype)
    result = apply_delta(other, calculate_delta(post, base), scale)
    for name, tensor in result.items():
        assert same_bits(tensor, formula(other[name], (scale, post[name], base[name])))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_post_comes_back_from_its_own_base(dtype):
    post, base = cast(POST, dtype), cast(BASE, dtype)
    result = apply_delta(base, calculate_delta(post, base))
    assert all(torch.equal(result[name], post[name]) for name in post)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_float64_delta_is_rounded_once_into_16_bits(dtype):
    """Through float32 it would be rounded twice: 1 + half a step + a little would become 1."""
    step = torch.finfo(dtype).eps
    base = {"w": torch.ones(1, dtype=dtype)}
    delta = {"w": torch.tensor([step / 2 + 2**-40], dtype=torch.float64)}
    assert apply_delta(base, delta)["w"].item() == 1 + step


def test_tensors_that_are_not_float_are_never_added():
    base = {"w": torch.ones(2), "steps": torch.tensor([3]), "mask": torch.tensor([True])}
    post = {"w": torch.zeros(2), "steps": torch.tensor([5]), "mask": torch.tensor([False])}
    delta = calculate_delta(post, base)
    assert list(delta) == ["w"]
    result = apply_delta(base, delta)
    assert list(result) == list(base)
    assert (result["steps"].item(), result["mask"].item()) == (3, True)


def test_what_the_delta_lacks_stays_as_it_is():
    base = {"a": torch.ones(2), "b": torch.ones(2)}
    result = apply_delta(base, {"a": torch.ones(2)})
    assert result["a"].tolist() == [2, 2]
    assert result["b"] is base["b"]


def test_the_inputs_are_left_alone():
    base, post = cast(BASE), cast(POST)
    before = {name: tensor.clone() for name, tensor in base.items()}
    delta = calculate_delta(post, base)
    kept = {name: tensor.clone() for name, tensor in delta.items()}
    apply_delta(base, delta, 0.5)
    combine_deltas([delta, delta], weights=[0.5, 2.0])
    assert all(same_bits(base[name], before[name]) for name in base)
    assert all(same_bits(delta[name], kept[name]) for name in delta)


def test_scalars_empty_tensors_and_views_are_handled():
    base = {"s": torch.tensor(1.0), "e": torch.empty(0, 4), "v": torch.ones(4, 3).T}
    post = {"s": torch.tensor(1.5), "e": torch.empty(0, 4), "v": torch.zeros(4, 3).T}
    result = apply_delta(base, calculate_delta(post, base))
    assert all(torch.equal(result[name], post[name]) for name in post)


def test_deltas_are_combined_by_their_weights():
    one, two = calculate_delta(POST, BASE), calculate_delta(OTHER, BASE)
    total = combine_deltas([one, two], weights=[0.25, -2.0])
    for name, tensor in total.items():
        assert same_bits(tensor, 0.25 * one[name] + -2.0 * two[name])


def test_weights_are_one_each_if_none_are_given():
    one, two = calculate_delta(POST, BASE), calculate_delta(OTHER, BASE)
    total = combine_deltas([one, two])
    assert all(same_bits(total[name], one[name] + two[name]) for name in one)
    alone = combine_deltas([one])
    assert all(same_bits(alone[name], one[name]) for name in one)


def test_one_float64_among_the_deltas_makes_the_whole_sum_float64():
    third = torch.tensor([2**-30])
    deltas = [{"w": torch.ones(1)}, {"w": third}, {"w": torch.zeros(1, dtype=torch.float64)}]
    assert combine_deltas(deltas)["w"].item() == 1 + 2**-30


@pytest.mark.parametrize("weights", [[], [1.0], [1.0, 2.0, 3.0]])
def test_another_number_of_weights_is_refused(weights):
    delta = {"w": torch.ones(1)}
    with pytest.raises(UsageError, match="2 deltas"):
        combine_deltas([delta, delta], weights=weights)
    with pytest.raises(UsageError, match="0 deltas"):
        combine_deltas([])


def test_names_and_shapes_that_do_not_fit_are_all_listed():
    base = {"a": torch.ones(2), "b": torch.ones(2), "d": torch.ones(2, 1)}
    post = {"b": torch.ones(3), "c": torch.ones(2), "d": torch.ones(1, 2)}
    with pytest.raises(Mismatch) as error:
        calculate_delta(post, base)
    assert len(error.value.problems) == 4
    assert all(any(p.startswith(name) for p in error.value.problems) for name in "abcd")
    with pytest.raises(Mismatch, match="c is only in delta"):
        apply_delta({"a": torch.ones(2)}, {"c": torch.ones(2)})
    with pytest.raises(Mismatch, match=r"\(2,\) in base, \(1,\) in delta"):
        apply_delta({"a": torch.ones(2)}, {"a": torch.ones(1)})
    with pytest.raises(Mismatch, match="delta 2"):
        combine_deltas([{"a": torch.ones(1)}, {"b": torch.ones(1)}])


def test_a_float_tensor_does_not_fit_one_that_is_not():
    floats, integers = {"w": torch.ones(2)}, {"w": torch.tensor([1, 2])}
    with pytest.raises(Mismatch, match="w"):
        calculate_delta(floats, integers)
    with pytest.raises(Mismatch, match="w"):
        calculate_delta(integers, floats)
