"""Base and post in different formats; and results that their format has no room for."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from models import State, cast, formula, near, random_state, same_bits
from operations.conftest import Family, delta_of

from pipeline import Difference, apply, compute
from pipeline.errors import Mismatch
from pipeline.operations.apply import ANOTHER_BASE, SAME_BASE
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
PAIRS = list(product(FLOATS, FLOATS))
NORM = "model.norm.weight"


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not same_bits(found[name], expected[name])] == []


@pytest.mark.parametrize(("base", "post"), PAIRS, ids=str)
def test_post_comes_back_bit_for_bit_from_a_base_of_any_format(
    family: Family, base: torch.dtype, post: torch.dtype
) -> None:
    before, after = cast(random_state(4), base), cast(near(random_state(4), 5, scale=0.03), post)
    after[NORM][:5] = torch.tensor([float("nan"), float("inf"), -0.0, 0.0, 65504.0])
    before[NORM][2:7] = torch.tensor([0.0, -0.0, -65504.0, float("inf"), 6e-8])
    family.add("base", before)
    family.add("post", after)
    done = apply(family.base, [delta_of(family)], str(family.folder / "out"))
    assert done.case == SAME_BASE
    assert_same(family.state("out"), after)


@pytest.mark.parametrize(("base", "post"), PAIRS, ids=str)
@pytest.mark.parametrize("new", [torch.bfloat16, torch.float64], ids=str)
def test_another_base_of_any_format_gets_the_formula_rounded_once(
    family: Family, base: torch.dtype, post: torch.dtype, new: torch.dtype
) -> None:
    before, after = cast(random_state(4), base), cast(near(random_state(4), 5, scale=0.03), post)
    other = cast(near(random_state(4), 6, scale=0.02), new)
    for name, state in (("base", before), ("post", after), ("new-base", other)):
        family.add(name, state)
    done = apply(family.new_base, [delta_of(family)], str(family.folder / "out"))
    assert done.case == ANOTHER_BASE
    is_wide = torch.float64 in (base, post)
    width = torch.float64 if is_wide else torch.float32
    total = torch.float64 if torch.float64 in (base, post, new) else torch.float32
    expected = {
        name: (other[name].to(total) + (after[name].to(width) - before[name].to(width)).to(total)).to(
            new
        )
        for name in other
    }
    assert_same(family.state("out"), expected)


def test_a_delta_that_its_format_has_no_room_for_is_still_exact(family: Family) -> None:
    """post in float16, base far outside of it: what is stored is infinite, and its remainder is not."""
    before, after = random_state(4), cast(random_state(4), torch.float16)
    before[NORM][0] = 1e9
    other = random_state(4)
    other[NORM][0] = 1e9
    for name, state in (("base", before), ("post", after), ("new-base", other)):
        family.add(name, state)
    done = apply(family.new_base, [(delta_of(family), 0.5)], str(family.folder / "out"))
    assert done.nonfinite == 0
    expected = {name: formula(other[name], (0.5, after[name], before[name])) for name in other}
    assert_same(family.state("out"), expected)


def in_half(family: Family, base: State | None = None) -> None:
    """The family in float16, and a new base with values that the delta lifts beyond that."""
    states = {"base": random_state(1), "post": near(random_state(1), 2), "new-base": random_state(3)}
    states["post"][NORM][:3] = states["base"][NORM][:3] + 60000
    states["new-base"][NORM][:3] = torch.tensor([60000.0, 1.0, 65000.0])
    states["post"]["model.embed_tokens.weight"][0, 0] = 60000
    states["new-base"]["model.embed_tokens.weight"][0, 0] = 60000
    for name, state in states.items():
        family.add(name, cast(state, torch.float16))


@pytest.mark.parametrize("is_fused", [False, True], ids=["stored", "on the way"])
def test_a_result_that_overflows_float16_is_refused_with_every_tensor_s_name(
    family: Family, is_fused: bool
) -> None:
    in_half(family)
    delta = Difference(family.base, family.post) if is_fused else delta_of(family)
    with pytest.raises(Mismatch) as refused:
        apply(family.new_base, [delta], str(family.folder / "out"))
    assert refused.value.problems == (
        "model.embed_tokens.weight: 1 of 800 values are beyond float16",
        "model.norm.weight: 2 of 16 values are beyond float16",
    )
    assert "--dtype bfloat16" in str(refused.value)
    assert not (family.folder / "out").exists()
    done = apply(family.new_base, [delta], str(family.folder / "out"), dtype="bfloat16")
    assert done.nonfinite == 0


def test_what_was_not_finite_before_is_counted_by_name_and_not_refused(family: Family) -> None:
    other = family.state("new-base")
    other[NORM][:2] = torch.tensor([float("nan"), float("inf")])
    family.add("new-base", other)
    post = family.state("post")
    post["model.embed_tokens.weight"][0, 0] = float("-inf")
    family.add("post", post)
    done = apply(family.new_base, [delta_of(family)], str(family.folder / "out"), dtype="float16")
    assert done.nonfinite == 3
    assert done.nonfinite_tensors == (("model.embed_tokens.weight", 1), (NORM, 2))


def test_overflow_is_found_in_every_chunk_and_at_any_number_of_workers(family: Family) -> None:
    wide = torch.zeros(2 * CHUNK_ELEMENTS + 77)
    for name, value in (("base", 0.0), ("post", 60000.0), ("new-base", 60000.0)):
        state = wide.clone()
        state[[0, CHUNK_ELEMENTS, -1]] = value
        family.add(name, {"w": state.to(torch.float16)})
    for workers in (1, 3):
        with pytest.raises(Mismatch, match=f"w: 3 of {len(wide)} values"):
            apply(family.new_base, [delta_of(family)], str(family.folder / "out"), workers=workers)


def test_a_scale_that_is_too_large_for_any_format_says_so(family: Family) -> None:
    compute(family.base, family.post, str(family.folder / "d.safetensors"))
    with pytest.raises(Mismatch, match="smaller scale"):
        apply(family.new_base, [(str(family.folder / "d.safetensors"), 1e42)], str(family.folder / "o"))
