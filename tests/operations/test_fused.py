"""A difference made on the way gives what a stored delta gives, bit for bit, and no delta is written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import State, cast, near, random_state, read_model, same_bits, write_model
from operations.conftest import Family
from servers.hub import HubServer

from pipeline import Difference, apply, compute
from pipeline.errors import (
    Mismatch,
    OtherCheckpoint,
)
from pipeline.operations.fingerprint import fingerprint
from pipeline.operations.outputs.report import ANOTHER_BASE, SAME_BASE, ApplyReport
from pipeline.storage.local.store import LocalReader
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.units import MIB

FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
INTEGERS = (torch.int32, torch.int64, torch.uint8)
EMBEDDING = "model.embed_tokens.weight"
TOLD_BY_LOCATION = ("README.md", "paramdelta.json")

Term = str | tuple[str, str]  # a delta's location; or base and post


def unfused(folder: Path, new: str, terms: Sequence[tuple[Term, float]], **options: Any) -> ApplyReport:
    """The sum by way of deltas that are written, in one codec and the other."""
    deltas = []
    for number, (term, scale) in enumerate(terms):
        path = term if isinstance(term, str) else str(folder / f"unfused-{number}.safetensors")
        if not isinstance(term, str):
            codec = ("rans", "none")[number % 2]
            compute(*term, path, codec=codec, overwrite=True, workers=1)
        deltas.append((path, scale))
    return apply(new, deltas, str(folder / "unfused"), overwrite=True, workers=1, **options)


def fused(folder: Path, new: str, terms: Sequence[tuple[Term, float]], **options: Any) -> ApplyReport:
    """The sum in one pass."""
    deltas = [(t if isinstance(t, str) else Difference(*t), scale) for t, scale in terms]
    return apply(new, deltas, str(folder / "fused"), overwrite=True, workers=1, **options)


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.name not in TOLD_BY_LOCATION}


def same_both_ways(
    folder: Path, new: str, terms: Sequence[tuple[Term, float]], **options: Any
) -> ApplyReport:
    """The report of the fused run, once all that it wrote and said was compared with the other's."""
    wanted = unfused(folder, new, terms, **options)
    found = fused(folder, new, terms, **options)
    assert files_of(folder / "fused") == files_of(folder / "unfused")
    left, right = asdict(found), asdict(wanted)
    for key in ("output", "deltas", "addend_fingerprints", "read_bytes", "memory_bytes"):
        del left[key], right[key]
    assert left == right
    dry = fused(folder, new, terms, dry_run=True, **options)
    assert (dry.read_bytes, dry.tensors, dry.elements) == (
        found.read_bytes, found.tensors, found.elements,
    )  # fmt: skip
    return found


def raw(seed: int, count: int, dtype: torch.dtype) -> torch.Tensor:
    """Any bits at all: infinities, NaNs of every kind, -0.0 and subnormal numbers among them."""
    size = dtype.itemsize
    data = np.random.default_rng(seed).integers(0, 256, count * size, np.uint8)
    return torch.from_numpy(data).view(dtype) if count else torch.empty(0, dtype=dtype)


def special(dtype: torch.dtype) -> torch.Tensor:
    values = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1.0, -1.0, 3e38, 1e-40, 65504, 6e-8]
    return torch.tensor(values, dtype=torch.float64).to(dtype)


@st.composite
def families(draw: st.DrawFn) -> dict[str, State]:
    """Base, post and new base, and a second post from another base, of tensors that fit."""
    made: dict[str, State] = {name: {} for name in ("base", "post", "base-2", "post-2", "new")}
    own = draw(st.booleans())  # whether the new base is the base
    for number in range(draw(st.integers(1, 4))):
        kinds = draw(st.sampled_from([FLOATS, FLOATS, INTEGERS]))
        shape = draw(st.sampled_from([(), (0,), (7,), (3, 0), (4, 11)]))
        count = int(np.prod(shape))
        seed = draw(st.integers(0, 1 << 32))
        for side, name in enumerate(made):
            dtype = draw(st.sampled_from(kinds))
            match draw(st.sampled_from(["raw", "normal", "special", "as before"])):
                case "normal" if kinds is FLOATS:
                    data = np.random.default_rng(seed).normal(size=count) * (1 + side / 100)
                    tensor = torch.from_numpy(data).to(dtype)
                case "special" if kinds is FLOATS:
                    tensor = special(dtype).repeat(5)[side : side + count]
                case "as before" if side:
                    tensor = made["base"][f"t{number}"].clone().reshape(-1)
                case _:
                    tensor = raw(seed + side, count, dtype)
            made[name][f"t{number}"] = tensor.reshape(shape)
    if own:
        made["new"] = {name: tensor.clone() for name, tensor in made["base"].items()}
    return made


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    states=families(),
    scales=st.sampled_from([(1.0,), (0.3,), (-2.0,), (0.0,), (1.0, 1.0), (0.7, -0.1)]),
    dtype=st.sampled_from(["auto", "auto", "float32", "float64", "float16"]),
)
def test_the_result_is_that_of_compute_and_apply(
    tmp_path: Path, states: dict[str, State], scales: tuple[float, ...], dtype: str
) -> None:
    folders = {name: str(write_model(tmp_path / name, state)) for name, state in states.items()}
    pairs = [(folders["base"], folders["post"]), (folders["base-2"], folders["post-2"])]
    terms = list(zip(pairs, scales, strict=False))
    try:
        same_both_ways(tmp_path, folders["new"], terms, dtype=dtype)
    except Mismatch as wanted:  # values that the result's format has no room for: refused both ways
        with pytest.raises(Mismatch) as found:
            fused(tmp_path, folders["new"], terms, dtype=dtype)
        assert found.value.problems == wanted.problems
        with pytest.raises(Mismatch):
            unfused(tmp_path, folders["new"], terms, dtype=dtype)


@pytest.mark.parametrize(
    ("base", "post", "new"),
    [
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float32, torch.bfloat16, torch.float16),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float16, torch.float64, torch.bfloat16),
    ],
    ids=str,
)
def test_tensors_of_several_chunks_come_out_the_same(
    family: Family, base: torch.dtype, post: torch.dtype, new: torch.dtype
) -> None:
    state = {"w": torch.randn(2 * CHUNK_ELEMENTS + 77, generator=torch.Generator().manual_seed(1))}
    flags = {"flags": torch.zeros(CHUNK_ELEMENTS + 5, dtype=torch.bool)}
    family.add("base", cast(state, base) | flags)
    changed = {"flags": flags["flags"].clone()}
    changed["flags"][-1] = True  # what lies in the first chunk is carried, too
    family.add("post", cast(near(state, 2, scale=0.5), post) | changed)
    family.add("new-base", cast(near(state, 3), new) | {"flags": ~flags["flags"]})
    report = same_both_ways(family.folder, family.new_base, [((family.base, family.post), 0.6)])
    assert report.carried == ("flags",)
    assert torch.equal(read_model(family.folder / "fused")["flags"], changed["flags"])


@pytest.mark.parametrize("rows", [50, 55, 57, 61])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_a_vocabulary_may_grow(family: Family, rows: int, scale: float) -> None:
    family.add("post", cast(near(random_state(1), 2, vocab=57)) | {"ids": torch.arange(57)})
    family.add("base", cast(random_state(1)) | {"ids": torch.arange(50)})
    grown = near(random_state(1), 3, vocab=rows) if rows > 50 else near(random_state(1), 3)
    family.add("new-base", cast(grown) | {"ids": torch.arange(rows) + 3})
    terms = [((family.base, family.post), scale)]
    same_both_ways(family.folder, family.new_base, terms)
    assert len(read_model(family.folder / "fused")[EMBEDDING]) == max(rows, 57)
    same_both_ways(family.folder, family.base, terms)


@pytest.mark.parametrize("change", [0, 1], ids=["unchanged", "changed"])
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8], ids=str)
def test_carried_tensors_are_posts_only_if_post_changed_them(
    tmp_path: Path, dtype: torch.dtype, change: int
) -> None:
    old = {"w": torch.ones(2), "ids": torch.arange(5, dtype=torch.int32)}
    states = {
        "base": old,
        "post": old | {"ids": old["ids"] + change},
        "new": {"w": torch.ones(2), "ids": (torch.arange(5) + 3).to(dtype)},
    }
    base, post, new = (str(write_model(tmp_path / name, state)) for name, state in states.items())
    report = same_both_ways(tmp_path, new, [((base, post), 0.5)])
    assert report.carried == ("ids",) * change
    wanted = states["post"] if change else states["new"]
    assert same_bits(read_model(tmp_path / "fused")["ids"], wanted["ids"])


def test_stored_deltas_and_differences_add_up_in_one_sum(family: Family) -> None:
    family.add("post-2", cast(near(random_state(1), 9)))
    stored = str(family.folder / "d.safetensors")
    compute(family.base, str(family.folder / "post-2"), stored)
    for terms in (
        [(stored, 0.5), ((family.base, family.post), 0.3)],
        [((family.base, family.post), 0.3), (stored, 0.5), ((family.base, stored[:-13] + "post-2"), -1)],
    ):
        same_both_ways(family.folder, family.new_base, terms)


def test_a_difference_without_a_scale_takes_that_of_the_call(family: Family) -> None:
    difference = Difference(base=family.base, post=family.post)
    one = apply(family.new_base, [difference], str(family.folder / "one"), scale=0.5)
    two = apply(family.new_base, [(difference, 0.5)], str(family.folder / "two"))
    listed: Any = [[difference, 0.5]]  # pairs may be lists, as JSON has them
    three = apply(family.new_base, listed, str(family.folder / "three"))
    assert one.fingerprint == two.fingerprint == three.fingerprint
    assert one.deltas == [(f"{family.post} - {family.base}", 0.5)]


def with_oddities(family: Family, dtype: torch.dtype) -> State:
    """A family whose post does not come back from base + difference alone; returns post's state."""
    base, post = cast(random_state(4), dtype), cast(near(random_state(4), 5, scale=0.03), dtype)
    post["model.norm.weight"][:4] = torch.tensor([float("nan"), float("inf"), -0.0, 0.0])
    base["model.norm.weight"][2:6] = torch.tensor([0.0, -0.0, float("inf"), 3e-39])
    family.add("base", base)
    family.add("post", post)
    return post


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_on_its_own_base_post_itself_comes_back(family: Family, dtype: torch.dtype) -> None:
    post = with_oddities(family, dtype)
    report = same_both_ways(family.folder, family.base, [((family.base, family.post), 1.0)])
    assert report.case == SAME_BASE
    found = read_model(family.folder / "fused")
    assert all(same_bits(found[name], post[name]) for name in post)


def test_so_it_does_on_a_copy_of_its_own_base(family: Family) -> None:
    post = with_oddities(family, torch.bfloat16)
    copy = family.add("copy", family.state("base"))
    report = same_both_ways(family.folder, copy, [((family.base, family.post), 1.0)])
    assert report.case == SAME_BASE
    assert all(same_bits(read_model(family.folder / "fused")[name], post[name]) for name in post)


def test_a_base_that_differs_only_late_is_another_base(family: Family) -> None:
    """The chunks that are looked at beforehand are the same: it shows while the result is written."""
    big = random_state(11, vocab=40_000)  # its embedding has two chunks
    other = cast(big)
    family.add("base", cast(big))
    family.add("post", cast(near(big, 12, scale=0.03)))
    other[EMBEDDING][-1, -1] += 1
    family.add("new-base", other)
    report = same_both_ways(family.folder, family.new_base, [((family.base, family.post), 1.0)])
    assert report.case == ANOTHER_BASE


def test_the_distance_from_the_old_base_is_that_of_a_stored_delta(family: Family) -> None:
    terms: list[tuple[Term, float]] = [((family.base, family.post), 0.5)]
    report = same_both_ways(family.folder, family.new_base, terms, old_base=family.base)
    assert report.base_distance
    for other in (family.new_base, family.add("small", {"w": torch.ones(1)})):
        with pytest.raises(OtherCheckpoint):
            fused(family.folder, family.new_base, terms, old_base=other)


@pytest.mark.parametrize("new", ["base", "new-base"])
def test_a_dry_run_reads_no_weights(
    family: Family, new: str, monkeypatch: pytest.MonkeyPatch, snapshot: Callable[[Path], object]
) -> None:
    big = random_state(1, vocab=20_000)  # so that what is read of headers does not reach its end
    for seed, name in enumerate(("base", "post", "new-base")):
        family.add(name, cast(near(big, seed)))
    reads: list[tuple[int, int]] = []
    read_into = LocalReader.read_into

    def reading(self: LocalReader, offset: int, buffer: memoryview) -> None:
        if self.name.endswith(".safetensors"):
            reads.append((offset, len(buffer)))
        read_into(self, offset, buffer)

    monkeypatch.setattr(LocalReader, "read_into", reading)
    before = snapshot(family.folder)
    terms: list[tuple[Term, float]] = [((family.base, family.post), 1.0)]
    planned = fused(family.folder, str(family.folder / new), terms, dry_run=True)
    assert snapshot(family.folder) == before
    headers = MIB // 4  # what is read of a file at once, to begin with
    assert reads == [(0, headers)] * 3
    done = fused(family.folder, str(family.folder / new), terms)
    for key in ("case", "tensors", "elements", "read_bytes", "written_bytes", "files"):
        assert getattr(planned, key) == getattr(done, key) or key == "files"
    assert set(planned.files) < set(done.files)


def test_every_input_is_read_once_and_nothing_but_the_result_is_written(family: Family) -> None:
    size = sum(t.nbytes for t in family.state("base").values())
    report = fused(family.folder, family.new_base, [((family.base, family.post), 1.0)])
    assert report.read_bytes == 3 * size
    assert sorted(path.name for path in family.folder.iterdir()) == ["base", "fused", "new-base", "post"]


def test_the_card_and_the_provenance_say_what_the_difference_is_of(family: Family) -> None:
    stored = str(family.folder / "d.safetensors")
    made = compute(family.base, family.post, stored)
    terms: list[tuple[Term, float]] = [((family.base, family.post), 0.5), (stored, 0.25)]
    fused(family.folder, family.new_base, terms)
    difference, delta = json.loads((family.folder / "fused" / "paramdelta.json").read_text())["deltas"]
    identities = {
        "base": {
            "location": family.base, "revision": None, "fingerprint": made.base_fingerprint,
        },
        "post": {
            "location": family.post, "revision": None, "fingerprint": made.post_fingerprint,
        },
    }  # fmt: skip
    assert difference == {"scale": 0.5, **identities}
    assert delta == {
        "location": stored, "scale": 0.25, "fingerprint": made.fingerprint, **identities,
    }  # fmt: skip
    card = (family.folder / "fused" / "README.md").read_text()
    assert "    result = base + 0.5 · ∆1 + 0.25 · ∆2\n" in card
    assert f"| post of ∆1 | `{family.post}` |\n| base of ∆1 | `{family.base}` |\n" in card
    assert f"| ∆2 | `{stored}` |\n" in card
    assert f"- fingerprint of the post of ∆1: `{made.post_fingerprint}`\n" in card
    assert f"- fingerprint of the base of ∆1: `{made.base_fingerprint}`\n" in card


def test_models_of_the_hub_are_named_with_their_commits(
    family: Family, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.patch_client(monkeypatch, tmp_path / "home")
    for name in ("base", "post"):
        hub.add_repo(f"org/{name}", family.folder / name)
    hub.repos["org/base"].set_branch("v2", family.folder / "new-base")
    terms: list[tuple[Term, float]] = [(("org/base", "org/post"), 1.0)]
    for new, case in (("org/base", SAME_BASE), ("org/base@v2", ANOTHER_BASE)):
        assert fused(family.folder, new, terms, dry_run=True).case == case
        assert fused(family.folder, new, terms).case == case
        provenance = (family.folder / "fused" / "paramdelta.json").read_text()
        (said,) = json.loads(provenance)["deltas"]
        for name in ("base", "post"):
            assert said[name]["location"] == f"hf://org/{name}"
            assert said[name]["revision"] == hub.repos[f"org/{name}"].sha()
    card = (family.folder / "fused" / "README.md").read_text()
    assert f"| post of ∆1 | `hf://org/post` at `{hub.repos['org/post'].sha()}` |" in card
    over_the_wire = files_of(family.folder / "fused")
    fused(family.folder, family.new_base, [((family.base, family.post), 1.0)])
    assert files_of(family.folder / "fused") == over_the_wire


@pytest.mark.parametrize("heads", [*product((False, True), repeat=3)], ids=str)
def test_each_model_is_known_by_its_own_bytes_also_by_a_tied_head_that_nothing_is_added_to(
    family: Family, heads: tuple[bool, bool, bool]
) -> None:
    for name, has_head in zip(("base", "post", "new-base"), heads, strict=True):
        state = family.state(name)
        head = {"lm_head.weight": state[EMBEDDING].clone()} if has_head else {}
        family.add(name, {**state, **head}, tie_word_embeddings=True)
    report = fused(family.folder, family.new_base, [((family.base, family.post), 1.0)])
    known = {"base": str(fingerprint(family.base)), "post": str(fingerprint(family.post))}
    assert report.addend_fingerprints == [known]
    assert report.base_fingerprint == str(fingerprint(family.new_base))
