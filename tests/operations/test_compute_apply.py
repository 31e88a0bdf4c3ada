"""compute and apply: post comes back bit for bit on its base, and elsewhere the formula counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from models import State, cast, formula, near, random_state, read_model, same_bits, write_model
from operations.conftest import Family
from safetensors import safe_open

from pipeline import apply, compute
from pipeline.deltas.format import CODECS
from pipeline.errors import UsageError
from pipeline.operations.apply import ANOTHER_BASE, SAME_BASE

DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
EMBEDDING = "model.embed_tokens.weight"


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not same_bits(found[name], expected[name])] == []


def delta_of(family: Family, post: str = "post", base: str = "base", codec: str = "rans") -> str:
    path = str(family.folder / f"{base}-{post}.safetensors")
    compute(str(family.folder / base), str(family.folder / post), path, codec=codec)
    return path


@pytest.mark.parametrize("storage", ["auto", "bfloat16", "float16", "float32"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_on_its_own_base_post_comes_back_bit_for_bit(
    family: Family, dtype: torch.dtype, storage: str
) -> None:
    base, post = cast(random_state(4), dtype), cast(near(random_state(4), 5, scale=0.03), dtype)
    post["model.norm.weight"][:4] = torch.tensor([float("nan"), float("inf"), -0.0, 0.0])
    base["model.norm.weight"][2:6] = torch.tensor([0.0, -0.0, float("inf"), 3e-39])
    family.add("base", base)
    family.add("post", post)
    for codec in CODECS:
        delta = str(family.folder / codec)
        compute(family.base, family.post, delta, dtype=storage, codec=codec)
        report = apply(family.base, [delta], str(family.folder / "out"), overwrite=True)
        assert report.case == SAME_BASE
        assert_same(family.state("out"), post)


@pytest.mark.parametrize("new", DTYPES, ids=str)
@pytest.mark.parametrize("old", [torch.bfloat16, torch.float32], ids=str)
def test_on_another_base_the_formula_is_rounded_once(
    family: Family, old: torch.dtype, new: torch.dtype
) -> None:
    origin = random_state(6, vocab=1500, width=64)
    base, post = cast(origin, old), cast(near(origin, 7, scale=0.01), old)
    other = cast(near(origin, 8, scale=0.02), new)
    for name, state in (("base", base), ("post", post), ("new-base", other)):
        family.add(name, state)
    report = apply(family.new_base, [delta_of(family)], str(family.folder / "out"))
    assert report.case == ANOTHER_BASE
    expected = {name: formula(other[name], (1.0, post[name], base[name])) for name in other}
    if new == torch.float64:  # the delta is what the file holds: a difference in float32
        expected = {name: other[name] + (post[name].float() - base[name].float()) for name in other}
    assert_same(family.state("out"), expected)


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, -1.0, 2.5])
def test_a_scale_multiplies_the_delta(family: Family, scale: float) -> None:
    delta = delta_of(family)
    apply(family.new_base, [delta], str(family.folder / "out"), scale=scale)
    base, post, other = (family.state(name) for name in ("base", "post", "new-base"))
    expected = {name: formula(other[name], (scale, post[name], base[name])) for name in other}
    assert_same(family.state("out"), expected)


def test_several_deltas_add_up_each_with_its_scale(family: Family) -> None:
    family.add("post-2", cast(near(random_state(1), 9)))
    deltas = [delta_of(family), (delta_of(family, "post-2"), -0.25)]
    report = apply(family.new_base, deltas, str(family.folder / "out"), scale=0.5)
    assert [scale for _, scale in report.deltas] == [0.5, -0.25]
    base, post, second, other = (family.state(name) for name in ("base", "post", "post-2", "new-base"))
    assert_same(
        family.state("out"),
        {
            name: formula(other[name], (0.5, post[name], base[name]), (-0.25, second[name], base[name]))
            for name in other
        },
    )


def test_a_scale_other_than_one_on_the_own_base_is_the_formula(family: Family) -> None:
    report = apply(family.base, [(delta_of(family), 0.5)], str(family.folder / "out"))
    assert report.case == ANOTHER_BASE
    base, post = family.state("base"), family.state("post")
    expected = {name: formula(base[name], (0.5, post[name], base[name])) for name in base}
    assert_same(family.state("out"), expected)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "float64"])
def test_the_result_may_be_asked_for_in_another_format(family: Family, dtype: str) -> None:
    torch_dtype = getattr(torch, dtype)
    apply(family.new_base, [delta_of(family)], str(family.folder / "out"), dtype=dtype)
    base, post, other = (family.state(name) for name in ("base", "post", "new-base"))
    for name, tensor in family.state("out").items():
        wide = torch.float64 if dtype == "float64" else torch.float32
        exact = formula(other[name].to(wide), (1.0, post[name], base[name]))
        if dtype == "float64":  # operands are bfloat16, so the arithmetic is float32's
            exact = formula(other[name].float(), (1.0, post[name], base[name]))
        assert same_bits(tensor, exact.to(torch_dtype))


def test_a_vocabulary_that_grew_starts_from_zero_where_the_base_had_no_rows(family: Family) -> None:
    post = cast(near(random_state(1), 2, vocab=57))
    family.add("post", post)
    delta = delta_of(family)
    assert apply(family.base, [delta], str(family.folder / "same")).case == SAME_BASE
    assert_same(family.state("same"), post)
    apply(family.new_base, [delta], str(family.folder / "other"))
    base, other = family.state("base"), family.state("new-base")
    expected = {name: formula(other[name], (1.0, post[name], base[name])) for name in other}
    assert len(expected[EMBEDDING]) == 57
    assert same_bits(expected[EMBEDDING][50:], post[EMBEDDING][50:])
    assert_same(family.state("other"), expected)
    config = json.loads((family.folder / "other" / "config.json").read_text())
    assert config["vocab_size"] == 57


def test_a_new_base_with_more_rows_than_post_keeps_them(family: Family) -> None:
    other = cast(near(random_state(1), 3, vocab=61))
    family.add("new-base", other)
    apply(family.new_base, [delta_of(family)], str(family.folder / "out"))
    base, post, out = (family.state(name) for name in ("base", "post", "out"))
    assert_same(out, {name: formula(other[name], (1.0, post[name], base[name])) for name in other})
    assert same_bits(out[EMBEDDING][50:], other[EMBEDDING][50:])
    config = json.loads((family.folder / "out" / "config.json").read_text())
    assert config["vocab_size"] == 61


def test_tensors_that_are_not_float_are_carried_where_post_changed_them(tmp_path: Path) -> None:
    same, changed = torch.arange(5), torch.arange(5) + 10
    flags, mask = torch.tensor([True, False]), torch.tensor([False, True])
    w = torch.randn(3, generator=torch.Generator().manual_seed(1))
    states = {
        "base": {"w": w, "kept": same, "moved": same + 1, "flags": flags},
        "post": {"w": w + 1, "kept": same, "moved": changed, "flags": mask},
        "new": {"w": w + 2, "kept": same * 7, "moved": same * 8, "flags": flags},
    }
    for name, state in states.items():
        write_model(tmp_path / name, state)
    delta = str(tmp_path / "d.safetensors")
    made = compute(str(tmp_path / "base"), str(tmp_path / "post"), delta)
    assert sorted(made.carried) == ["flags", "moved"]
    apply(str(tmp_path / "base"), [delta], str(tmp_path / "same"))
    assert_same(read_model(tmp_path / "same"), states["post"])
    report = apply(str(tmp_path / "new"), [delta], str(tmp_path / "out"), scale=0.5)
    assert sorted(report.carried) == ["flags", "moved"]
    found = read_model(tmp_path / "out")
    assert torch.equal(found["kept"], same * 7)
    assert torch.equal(found["moved"], changed)
    assert torch.equal(found["flags"], mask)


def test_empty_and_scalar_tensors_go_along(tmp_path: Path) -> None:
    base = {"empty": torch.zeros(0, 4), "scalar": torch.tensor(1.5), "ids": torch.zeros(0).long()}
    post = {**base, "scalar": torch.tensor(1.25)}
    for name, state in (("base", base), ("post", post)):
        write_model(tmp_path / name, state)
    delta = str(tmp_path / "d.safetensors")
    compute(str(tmp_path / "base"), str(tmp_path / "post"), delta)
    apply(str(tmp_path / "base"), [delta], str(tmp_path / "out"))
    assert_same(read_model(tmp_path / "out"), post)


def test_a_base_that_is_mostly_the_old_one_gets_the_formula_everywhere(family: Family) -> None:
    """Whatever was taken for the same base at first, the result is that of another base."""
    big = random_state(11, vocab=40_000)  # its embedding has two chunks
    base, post = cast(big), cast(near(big, 12, scale=0.03))
    other = {name: tensor.clone() for name, tensor in base.items()}
    other[EMBEDDING][-1, -1] += 1
    for name, state in (("base", base), ("post", post), ("new-base", other)):
        family.add(name, state)
    report = apply(family.new_base, [delta_of(family)], str(family.folder / "out"))
    assert report.case == ANOTHER_BASE
    expected = {name: formula(other[name], (1.0, post[name], base[name])) for name in other}
    assert_same(family.state("out"), expected)
    assert not list(family.folder.glob(".*"))


def test_any_safetensors_reader_can_add_the_plain_part(family: Family) -> None:
    base, post = family.state("base"), family.state("post")
    with safe_open(delta_of(family, codec="none"), "pt") as file:
        for name, tensor in base.items():
            plain = (tensor.float() + file.get_tensor(name).float()).to(torch.bfloat16)
            assert torch.allclose(plain.float(), post[name].float(), rtol=1e-2, atol=2e-5)


def test_the_reports_count_what_was_done(family: Family) -> None:
    base, post = family.state("base"), family.state("post")
    delta = str(family.folder / "d.safetensors")
    made = compute(family.base, family.post, delta)
    elements = sum(tensor.numel() for tensor in base.values())
    assert (made.tensors, made.elements) == (len(base), elements)
    assert made.read_bytes == 4 * elements
    assert made.changed == sum(int((base[n] != post[n]).sum()) for n in base)
    done = apply(family.base, [delta], str(family.folder / "out"))
    assert done.fingerprint == made.post_fingerprint
    assert done.base_fingerprint == made.base_fingerprint
    assert done.nonfinite == 0


def test_results_that_are_not_finite_are_counted(family: Family) -> None:
    base, post = family.state("base"), family.state("post")
    base["model.norm.weight"][0] = 3e38
    post["model.norm.weight"][0] = -3e38
    post["model.norm.weight"][1] = float("nan")
    family.add("base", base)
    family.add("post", post)
    report = apply(family.new_base, [delta_of(family)], str(family.folder / "out"))
    assert report.nonfinite == 2


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_inputs_give_the_same_bytes(family: Family, workers: int, codec: str) -> None:
    once, again = family.folder / "once", family.folder / "again"
    compute(family.base, family.post, str(once), codec=codec)
    compute(family.base, family.post, str(again), codec=codec, workers=workers, memory="64MiB")
    assert once.read_bytes() == again.read_bytes()


def test_options_that_mean_nothing_are_refused(family: Family) -> None:
    delta, out = delta_of(family), str(family.folder / "out")
    for arguments in ({"scale": float("nan")}, {"memory": "1KiB"}, {"workers": 0}, {"dtype": "int8"}):
        with pytest.raises(UsageError):
            apply(family.new_base, [delta], out, **arguments)  # type: ignore[arg-type]
    with pytest.raises(UsageError):
        apply(family.new_base, [], out)
    with pytest.raises(UsageError, match="known: rans, none"):
        compute(family.base, family.post, out, codec="zip")
    assert not (family.folder / "out").exists()
