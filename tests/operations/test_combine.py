"""combine: the weighted sum of deltas, exact, as a delta of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from clouds import Cloud
from models import State, cast, near, random_state, same_bits
from operations.conftest import Family, Snapshot
from tokenizers_for_tests import put, words

from pipeline import apply, combine, compute, inspect, open_delta, verify
from pipeline.deltas.format import CODECS
from pipeline.errors import CorruptFile, Mismatch, NotFound, OutputExists, UsageError

EMBEDDING, NORM = "model.embed_tokens.weight", "model.norm.weight"
Part = tuple[float, State, State]  # scale, post, base


def summed(new: State, *parts: Part, width: torch.dtype = torch.float32) -> State:
    """new + (the sum of scale * (post - base)), everything in `width`, rounded once."""

    def wide(tensor: torch.Tensor, rows: int) -> torch.Tensor:
        full = torch.zeros(rows, *tensor.shape[1:], dtype=width)
        full[: len(tensor)] = tensor.to(width)
        return full

    found = {}
    for name, tensor in new.items():
        rows = len(parts[0][1][name])
        total, *others = (
            torch.tensor(scale, dtype=width) * (wide(post[name], rows) - wide(base[name], rows))
            for scale, post, base in parts
        )
        for term in others:
            total = total + term
        found[name] = (wide(tensor, rows) + total).to(tensor.dtype)
    return found


def assert_same(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert [name for name in expected if not same_bits(found[name], expected[name])] == []


@pytest.fixture
def deltas(family: Family) -> tuple[str, str]:
    """Deltas of two posts of one base, far enough for remainders."""
    family.add("post", cast(near(random_state(1), 2, scale=0.05)))
    family.add("post-2", cast(near(random_state(1), 9, scale=0.05)))
    return delta_of(family, "post"), delta_of(family, "post-2")


def delta_of(family: Family, post: str, base: str = "base", **options: object) -> str:
    path = str(family.folder / f"{post}.safetensors")
    compute(str(family.folder / base), str(family.folder / post), path, **options)
    return path


# -- the numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("scales", [(0.5, 0.25), (1.0, 1.0), (-0.3, 0.7), (0.0, 2.0)], ids=str)
def test_added_to_a_base_the_sum_is_the_formula_rounded_once(
    family: Family, deltas: tuple[str, str], scales: tuple[float, float], codec: str
) -> None:
    combined = str(family.folder / "c.safetensors")
    made = combine(list(zip(deltas, scales, strict=True)), combined, codec=codec)
    base, post, second, other = (family.state(n) for n in ("base", "post", "post-2", "new-base"))
    assert made.remainders
    for name, onto in (("new-base", other), ("base", base)):
        out = family.folder / f"out-{name}"
        apply(str(family.folder / name), [combined], str(out))
        parts = (scales[0], post, base), (scales[1], second, base)
        assert_same(family.state(out.name), summed(onto, *parts))
    apply(family.new_base, [(combined, 0.1)], str(family.folder / "tenth"))
    widely = {n: t.float() for n, t in other.items()}
    zeros = {n: torch.zeros_like(t) for n, t in widely.items()}
    total = summed(zeros, (scales[0], post, base), (scales[1], second, base))
    tenth = {n: (widely[n] + torch.tensor(0.1) * total[n]).bfloat16() for n in widely}
    assert_same(family.state("tenth"), tenth)


@pytest.mark.parametrize("stored", ["auto", "bfloat16"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
def test_one_delta_at_scale_one_is_itself(family: Family, dtype: torch.dtype, stored: str) -> None:
    base = cast(random_state(3), dtype)
    post = cast(near(random_state(3), 4, scale=0.05), dtype)
    post[NORM][:4] = torch.tensor([torch.nan, torch.inf, -0.0, 3e4])
    for name, state in (("base", base), ("post", post)):
        family.add(name, state)
    delta, combined = delta_of(family, "post", dtype=stored), str(family.folder / "c.safetensors")
    combine([(delta, 1.0)], combined)
    for name, path in (("one", delta), ("other", combined)):
        apply(family.new_base, [path], str(family.folder / name))
    assert_same(family.state("other"), family.state("one"))


def test_sums_of_float64_models_are_in_float64(family: Family) -> None:
    states = {
        "base": cast(random_state(1), torch.float64),
        "post": {n: t.double() + torch.pi * 1e-9 for n, t in near(random_state(1), 2).items()},
        "post-2": cast(near(random_state(1), 9), torch.float64),
        "new-base": cast(near(random_state(1), 3), torch.float64),
    }
    for name, state in states.items():
        family.add(name, state)
    deltas = [(delta_of(family, "post"), 0.1), (delta_of(family, "post-2"), 0.2)]
    combine(deltas, str(family.folder / "c"))
    apply(family.new_base, [str(family.folder / "c")], str(family.folder / "out"))
    parts = (0.1, states["post"], states["base"]), (0.2, states["post-2"], states["base"])
    expected = summed(states["new-base"], *parts, width=torch.float64)
    assert_same(family.state("out"), expected)


@pytest.mark.parametrize("codec", CODECS)
def test_combinations_combine_and_convert_like_any_delta(
    family: Family, deltas: tuple[str, str], codec: str
) -> None:
    first, again = (str(family.folder / f"{n}.safetensors") for n in ("first", "again"))
    combine([(deltas[0], 0.5)], first, codec=codec)
    combine([(first, 2.0), (deltas[1], 1.0)], again)
    apply(family.new_base, [again], str(family.folder / "out"))
    base, post, second, other = (family.state(n) for n in ("base", "post", "post-2", "new-base"))
    assert_same(family.state("out"), summed(other, (1.0, post, base), (1.0, second, base)))
    assert verify(again).kind == "delta"


@pytest.mark.parametrize("codec", CODECS)
def test_the_same_inputs_give_the_same_bytes(family: Family, tmp_path: Path, codec: str) -> None:
    big = {f"w{i}": torch.randn(700_000, generator=torch.Generator().manual_seed(i)) for i in range(2)}
    for name, seed in (("base", 0), ("post", 5)):
        family.add(name, cast(near(big, seed) if seed else big))
    delta, found = delta_of(family, "post"), set()
    for number, (workers, memory) in enumerate([(1, "1GiB"), (4, "1GiB"), (1, "128MiB")]):
        path = tmp_path / f"{number}.safetensors"
        combine([(delta, 0.5), (delta, -0.2)], str(path), codec=codec, workers=workers, memory=memory)
        found.add(path.read_bytes())
    assert len(found) == 1


# -- what is not added --------------------------------------------------------------------------


def test_carried_tensors_are_the_last_deltas_that_changed_them(family: Family) -> None:
    base = family.state("base") | {"ids": torch.arange(5), "kept": torch.arange(3)}
    states = {"base": base, "new-base": family.state("new-base") | {"ids": base["ids"] * 9}}
    states["new-base"]["kept"] = base["kept"] * 7
    for name, step in (("a", 1), ("b", 2), ("c", 0)):
        states[name] = family.state("post") | {"ids": base["ids"] + step, "kept": base["kept"]}
    for name, state in states.items():
        family.add(name, state)
    deltas = [(delta_of(family, name), 0.5) for name in "abc"]
    combine(deltas, str(family.folder / "sum"))
    apply(family.new_base, [str(family.folder / "sum")], str(family.folder / "out"))
    apply(family.new_base, deltas, str(family.folder / "together"))
    for name in ("out", "together"):
        found = family.state(name)
        assert torch.equal(found["ids"], base["ids"] + 2)
        assert torch.equal(found["kept"], base["kept"] * 7)


def test_tokenizer_and_config_are_the_first_deltas(family: Family) -> None:
    for name, text in (("post", "one"), ("post-2", "two")):
        family.add(name, family.state("post"), eos_token_id=len(name))
        (family.folder / name / "chat_template.jinja").write_text(text)
    deltas = [(delta_of(family, name), 0.5) for name in ("post", "post-2")]
    combine(deltas, str(family.folder / "sum"))
    apply(family.new_base, [str(family.folder / "sum")], str(family.folder / "out"))
    assert (family.folder / "out" / "chat_template.jinja").read_text() == "one"
    assert json.loads((family.folder / "out" / "config.json").read_text())["eos_token_id"] == 4


# -- vocabularies -------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizers", [True, False], ids=["tokens", "no tokens"])
@pytest.mark.parametrize("scales", [(0.7, 0.9), (2.0, 1.0), (-0.3, 0.7), (0.0, 0.0)], ids=str)
def test_a_sum_has_of_rows_that_only_the_posts_have_what_apply_has_of_its_parts(
    family: Family, scales: tuple[float, float], tokenizers: bool
) -> None:
    for name, seed in (("post", 2), ("post-2", 9)):
        family.add(name, cast(near(random_state(1), seed, vocab=57)))
    family.add("padded", cast(near(random_state(1), 4, vocab=64)))
    for name, rows in (("post", 57), ("post-2", 57), ("base", 50), ("new-base", 50), ("padded", 50)):
        if tokenizers:
            put(family.folder / name, words([f"w{row}" for row in range(rows)]))
    deltas = list(zip([delta_of(family, name) for name in ("post", "post-2")], scales, strict=True))
    combine(deltas, str(family.folder / "sum"))
    for base, rows in ((family.new_base, 57), (str(family.folder / "padded"), 64)):
        apply(base, deltas, str(family.folder / f"parts-{rows}"))
        apply(base, [str(family.folder / "sum")], str(family.folder / f"sum-{rows}"))
        parts, found = family.state(f"parts-{rows}"), family.state(f"sum-{rows}")
        assert same_bits(found[EMBEDDING][50:57], parts[EMBEDDING][50:57])
        for name, tensor in parts.items():  # elsewhere float32 is added in another order
            assert torch.allclose(found[name].float(), tensor.float(), rtol=2**-7, atol=1e-6), name
        posts = [family.state(name)[EMBEDDING][50:].float() for name in ("post", "post-2")]
        weights = torch.tensor(scales if min(scales) >= 0 and max(scales) > 0 else (1.0, 0.0))
        mean = sum(w * p for w, p in zip(weights / weights.sum(), posts, strict=True))
        assert len(parts[EMBEDDING]) == rows
        assert torch.allclose(parts[EMBEDDING][50:57].float(), mean, rtol=1e-2, atol=1e-6)


def test_rows_are_whole_across_the_borders_of_chunks(family: Family) -> None:
    """The first chunk ends within row 21845."""
    base = random_state(1, vocab=21_000, width=24, layers=0)
    for name, seed, rows in (("base", 0, 0), ("post", 2, 23_000), ("post-2", 9, 23_000)):
        family.add(name, cast(near(base, seed, vocab=rows) if rows else base))
    deltas = [(delta_of(family, name), 1.5) for name in ("post", "post-2")]
    combine(deltas, str(family.folder / "sum"))
    apply(family.base, deltas, str(family.folder / "parts"))
    apply(family.base, [(str(family.folder / "sum"), 1.0)], str(family.folder / "out"))
    assert_same(family.state("out"), family.state("parts"))
    line = next(each for each in inspect(str(family.folder / "sum")).tensors if each.name == EMBEDDING)
    rows = family.state("out")[EMBEDDING]
    assert same_bits(rows[22_000:22_001], ((family.state("post")[EMBEDDING].float()
        * 0.5 + family.state("post-2")[EMBEDDING].float() * 0.5)[22_000:22_001]).bfloat16())  # fmt: skip
    assert line.delta_l2 is not None


def test_posts_whose_added_tokens_differ_are_refused(family: Family) -> None:
    """As apply does: the rows of both would be mixed."""
    for name, added in (("post", "<bot>"), ("post-2", "<tool>")):
        family.add(name, cast(near(random_state(1), 2, vocab=51)))
        put(family.folder / name, words([f"w{row}" for row in range(50)], {added: 50}))
    deltas = [(delta_of(family, name), 0.5) for name in ("post", "post-2")]
    with pytest.raises(Mismatch, match="id 50 is '<bot>' in one delta and '<tool>' in another"):
        combine(deltas, str(family.folder / "sum"))


def test_a_first_delta_that_lacks_tokens_of_another_is_refused(family: Family) -> None:
    """Its tokenizer is the sum's, which would have rows that no text leads to."""
    for name, added in (("base", {}), ("post", {"<a>": 46}), ("post-2", {"<a>": 46, "<b>": 47})):
        family.add(name, cast(near(random_state(1), len(name))))
        put(family.folder / name, words([f"w{row}" for row in range(46)], added))
    first, second = (delta_of(family, name) for name in ("post", "post-2"))
    with pytest.raises(Mismatch, match=r"'<b>' \(id 47\) is no token of .*post\.safetensors"):
        combine([(first, 0.5), (second, 0.5)], str(family.folder / "sum"))
    with pytest.raises(Mismatch, match=r"rows 46 to 47 are whole in .*, rows 46 to 46 in"):
        combine([(second, 0.5), (first, 0.5)], str(family.folder / "sum"))


def test_bases_in_different_orders_add_up_if_their_posts_have_the_same_tokens(family: Family) -> None:
    tokens = [f"w{row}" for row in range(50)]
    for name, order in (("base", tokens), ("new-base", tokens[::-1])):
        put(family.folder / name, words(order))
    for name, seed in (("post", 2), ("post-2", 9)):
        family.add(name, cast(near(random_state(1), seed, vocab=52)))
        put(family.folder / name, words(tokens, {"<a>": 50, "<b>": 51}))
    one, two = delta_of(family, "post"), delta_of(family, "post-2", base="new-base")
    for number, deltas in enumerate(([(one, 0.5), (two, 1.5)], [(two, 0.5), (one, 1.5)])):
        combine(deltas, str(family.folder / f"sum-{number}"))
        apply(family.base, deltas, str(family.folder / "parts"), overwrite=True)
        apply(family.base, [str(family.folder / f"sum-{number}")], str(family.folder / f"out-{number}"))
        assert_same(family.state(f"out-{number}"), family.state("parts"))


def test_vocabularies_of_two_sizes_are_refused(family: Family) -> None:
    family.add("post-2", cast(near(random_state(1), 9, vocab=57)))
    deltas = [(delta_of(family, name), 0.5) for name in ("post", "post-2")]
    with pytest.raises(Mismatch, match=rf"1 tensor does not fit: {EMBEDDING} is 50 × 16.*57 × 16"):
        combine(deltas, str(family.folder / "sum"))


def test_rows_that_are_whole_in_one_delta_and_a_difference_in_another_are_refused(
    family: Family,
) -> None:
    """apply tells them apart; a sum of both could not say what is to be done with them at a scale."""
    wider = near(random_state(1), 5, vocab=53)
    family.add("wide-base", cast(wider))
    family.add("post", cast(near(random_state(1), 2, vocab=57)))
    family.add("post-2", cast(near(wider, 9, vocab=57)))
    parts = [(delta_of(family, "post"), 0.5), (delta_of(family, "post-2", "wide-base"), 0.5)]
    with pytest.raises(Mismatch, match=rf"{EMBEDDING}: rows 50 to 56 are whole in .*, rows 53 to 56 in"):
        combine(parts, str(family.folder / "sum"))
    apply(str(family.folder / "wide-base"), parts, str(family.folder / "out"))
    one, two = (family.state(name)[EMBEDDING][50:53].float() for name in ("post", "post-2"))
    found = family.state("out")[EMBEDDING][50:53]
    assert torch.equal(found, (one + 0.5 * (two - cast(wider)[EMBEDDING][50:53].float())).bfloat16())


def test_tokenizers_of_the_deltas_must_agree(family: Family) -> None:
    for name, tokens in (("post", '{"a": 0, "b": 1}'), ("post-2", '{"b": 0, "a": 1}')):
        family.add(name, family.state("post"))
        (family.folder / name / "tokenizer.json").write_text(f'{{"model": {{"vocab": {tokens}}}}}')
    deltas = [(delta_of(family, name), 0.5) for name in ("post", "post-2")]
    with pytest.raises(Mismatch, match="'a'"):
        combine(deltas, str(family.folder / "sum"))


# -- what it says of itself ---------------------------------------------------------------------


def test_the_manifest_says_what_it_was_made_of(family: Family, deltas: tuple[str, str]) -> None:
    path = str(family.folder / "sum.safetensors")
    made = combine([(deltas[0], 0.5), (deltas[1], -0.25)], path)
    assert (made.base, made.tensors, made.dry_run) == (family.base, 8, False)
    assert made.written_bytes == Path(path).stat().st_size
    with open_delta(path) as combined, open_delta(deltas[0]) as one, open_delta(deltas[1]) as two:
        said = combined.manifest
        assert str(said.fingerprint) == made.fingerprint
        assert (said.base, said.post) == (one.manifest.base, None)
        for ancestor, scale, parent in zip(said.ancestors, (0.5, -0.25), (one, two), strict=True):
            assert (ancestor.location, ancestor.scale) == (parent.location, scale)
            assert ancestor.fingerprint == parent.manifest.fingerprint
            assert (ancestor.base, ancestor.post) == (parent.manifest.base, parent.manifest.post)
        for record, parent_record in zip(said.tensors, one.manifest.tensors, strict=True):
            assert (record.post_digest, record.exceptions) == (None, 0)
            assert record.base_digest == parent_record.base_digest
            assert record.base_l2 == parent_record.base_l2
    found = inspect(path)
    assert found.facts["ancestors"] == [(deltas[0], 0.5), (deltas[1], -0.25)]
    assert "post" not in found.facts


def test_norms_and_changes_are_those_of_the_sum(family: Family, deltas: tuple[str, str]) -> None:
    path = str(family.folder / "sum.safetensors")
    combine([(deltas[0], 0.5), (deltas[1], -0.25)], path)
    base, post, second = (family.state(n) for n in ("base", "post", "post-2"))
    zeros = {name: torch.zeros(tensor.shape) for name, tensor in base.items()}
    totals = summed(zeros, (0.5, post, base), (-0.25, second, base))
    for line in inspect(path).tensors:
        total = totals[line.name].double()
        assert line.delta_l2 == pytest.approx(float(total.norm()), rel=1e-12)
        assert line.delta_max == float(total.abs().max())
        assert line.changed == int(total.count_nonzero())


def test_deltas_of_different_bases_have_none_in_common(family: Family, deltas: tuple[str, str]) -> None:
    family.add("post-3", cast(near(random_state(1), 5)))
    parts = [(deltas[0], 0.5), (delta_of(family, "post-3", base="new-base"), 0.5)]
    path = str(family.folder / "sum.safetensors")
    assert combine(parts, path).base is None
    with open_delta(path) as combined:
        assert combined.manifest.base is None
        assert {record.base_digest for record in combined.manifest.tensors} == {None}
        assert {record.base_l2 for record in combined.manifest.tensors} == {None}
    base, post, third, other = (family.state(n) for n in ("base", "post", "post-3", "new-base"))
    apply(family.new_base, [path], str(family.folder / "out"))
    assert_same(family.state("out"), summed(other, (0.5, post, base), (0.5, third, other)))


# -- refused ------------------------------------------------------------------------------------


def test_deltas_of_different_shapes_and_kinds_are_refused_with_every_difference(
    family: Family, deltas: tuple[str, str], snapshot: Snapshot
) -> None:
    state = random_state(1, width=24, layers=3)
    wide = cast(state) | {NORM: state[NORM].double()}
    for name in ("base-3", "post-3"):
        family.add(name, wide)
    other, before = delta_of(family, "post-3", base="base-3"), snapshot(family.folder)
    with pytest.raises(Mismatch, match="11 tensors do not fit") as error:
        combine([(deltas[0], 1.0), (other, 1.0)], str(family.folder / "sum"))
    text = "; ".join(error.value.problems)
    assert f"{NORM} is 16 BF16 in {deltas[0]}, 24 F64 in {other}" in text
    assert "model.layers.2.mlp.up_proj.weight" in text
    assert snapshot(family.folder) == before


@pytest.mark.parametrize("kind", ["width", "carried"])
def test_deltas_of_different_arithmetic_are_refused(family: Family, kind: str) -> None:
    one = {"w": torch.ones(3), "ids": torch.arange(3)}
    two = {**one, "ids": one["ids"].int()} if kind == "carried" else {**one, "w": one["w"].double()}
    family.add("base", one)
    family.add("base-2", two)
    family.add("post", {**one, "ids": one["ids"] + 1})
    family.add("post-2", {**two, "w": torch.ones(3) * 2, "ids": two["ids"] + 1})
    deltas = [(delta_of(family, "post"), 1.0), (delta_of(family, "post-2", "base-2"), 1.0)]
    wanted = {"width": "w is 3 F32 in .*, 3 F32 on a base of F64 in", "carried": "ids is 3 I64.*3 I32"}
    with pytest.raises(Mismatch, match=wanted[kind]):
        combine(deltas, str(family.folder / "sum"))


def test_damage_is_found_and_nothing_is_published(
    family: Family, deltas: tuple[str, str], snapshot: Snapshot
) -> None:
    data = bytearray(Path(deltas[1]).read_bytes())
    data[len(data) // 2] ^= 1
    Path(deltas[1]).write_bytes(data)
    before = snapshot(family.folder)
    with pytest.raises(CorruptFile, match=deltas[1]):
        combine([(each, 0.5) for each in deltas], str(family.folder / "sum"))
    assert snapshot(family.folder) == before


def test_combinations_that_mean_nothing_are_refused(
    family: Family, deltas: tuple[str, str], snapshot: Snapshot
) -> None:
    out, before = str(family.folder / "sum"), snapshot(family.folder)
    for parts, options, kind in (
        ([], {}, UsageError),
        ([(deltas[0], float("nan"))], {}, UsageError),
        ([(deltas[0], float("inf"))], {}, UsageError),
        ([(deltas[0], 1.0)], {"codec": "zip"}, UsageError),
        ([(deltas[0], 1.0)], {"memory": "1KiB"}, UsageError),
        ([(f"{family.base}/model.safetensors", 1.0)], {}, UsageError),
        ([("./none.safetensors", 1.0)], {}, NotFound),
    ):
        with pytest.raises(kind):
            combine(parts, out, **options)
    with pytest.raises(OutputExists):
        combine([(deltas[0], 1.0)], deltas[1])
    assert combine([(deltas[0], 1.0)], out, dry_run=True).dry_run
    assert snapshot(family.folder) == before


def test_deltas_in_containers_are_combined_there(family: Family, cloud: Cloud) -> None:
    for name in ("post", "new-base"):
        path = f"{cloud.location}/{name}.safetensors"
        compute(family.base, str(family.folder / name), path)
    parts = [(f"{cloud.location}/{name}.safetensors", 0.5) for name in ("post", "new-base")]
    made = combine(parts, f"{cloud.location}/sum.safetensors")
    assert verify(f"{cloud.location}/sum.safetensors").fingerprint == made.fingerprint
