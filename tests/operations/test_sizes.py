"""Models of every shape: many tensors, large tensors, little memory, several files."""

from __future__ import annotations

import json
import re
import resource
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from models import cast, formula, near, random_state, read_model, same_bits, write_model
from operations.conftest import Family
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pipeline import apply, compute
from pipeline.errors import UsageError
from pipeline.operations.apply import SAME_BASE
from pipeline.units import parse_bytes

State = dict[str, torch.Tensor]


def pair(folder: Path, base: State, seed: int = 2) -> tuple[str, str, State]:
    """Base and post in folders, and post's state."""
    post = cast({name: tensor.float() for name, tensor in near(base, seed).items()}, torch.bfloat16)
    write_model(folder / "base", base)
    write_model(folder / "post", post)
    return str(folder / "base"), str(folder / "post"), post


def test_five_thousand_small_tensors_are_restored_in_seconds(tmp_path: Path) -> None:
    """As a mixture of experts has them; seconds, not the minutes of work that grows by squares."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(5_000, 32, generator=generator).to(torch.bfloat16)
    base_state = {f"experts.{n}.w": row.clone() for n, row in enumerate(rows)}
    base, post, expected = pair(tmp_path, base_state)
    delta = str(tmp_path / "d.safetensors")
    started = time.process_time()
    compute(base, post, delta, memory="64MiB")
    assert apply(base, [delta], str(tmp_path / "out"), memory="64MiB").case == SAME_BASE
    assert time.process_time() - started < 40
    found = read_model(tmp_path / "out")
    assert all(same_bits(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("dtype", "count"), [(torch.bfloat16, 17_000_011), (torch.float32, 13_000_011)], ids=str
)
def test_a_tensor_larger_than_the_memory_passes_through_it(
    tmp_path: Path, dtype: torch.dtype, count: int
) -> None:
    block = torch.randn(1_000_003, generator=torch.Generator().manual_seed(1)).to(dtype)
    base = {"w": block.repeat(count // len(block) + 1)[:count].clone()}
    post = {"w": base["w"] * 1.001}
    for name, state in (("base", base), ("post", post), ("new", {"w": base["w"] + 0.25})):
        write_model(tmp_path / name, state)
    delta = str(tmp_path / "d.safetensors")

    def with_least(run: Callable[[str], object]) -> None:
        """Run with as little memory as the refusal of 1 MiB says; it is less than the tensor takes."""
        with pytest.raises(UsageError, match=r"give --memory \d+MiB") as error:
            run("1MiB")
        least = re.search(r"\d+MiB", str(error.value.hint))
        assert least is not None
        assert parse_bytes(least[0]) < base["w"].nbytes * 2
        run(least[0])

    folders = {name: str(tmp_path / name) for name in ("base", "post", "new", "out", "out-2")}
    with_least(lambda memory: compute(folders["base"], folders["post"], delta, memory=memory))
    with_least(lambda memory: apply(folders["base"], [delta], folders["out"], memory=memory))
    assert same_bits(read_model(tmp_path / "out")["w"], post["w"])
    with_least(lambda memory: apply(folders["new"], [delta], folders["out-2"], memory=memory))
    expected = formula(base["w"] + 0.25, (1.0, post["w"], base["w"]))
    assert same_bits(read_model(tmp_path / "out-2")["w"], expected)


@pytest.mark.parametrize("count", [0, 1, 2**19 - 1, 2**19, 2**19 + 1, 2**20])
def test_tensors_that_end_at_or_beside_a_chunks_end_are_restored(tmp_path: Path, count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    state = {"a": torch.randn(3, generator=generator), "w": torch.randn(count, generator=generator)}
    base, post, expected = pair(tmp_path, cast({**state, "z": torch.ones(1)}))
    delta = str(tmp_path / "d.safetensors")
    compute(base, post, delta)
    assert apply(base, [delta], str(tmp_path / "out")).case == SAME_BASE
    found = read_model(tmp_path / "out")
    assert all(same_bits(found[name], expected[name]) for name in expected)


def test_a_vocabulary_may_grow_in_the_middle_of_a_chunk(tmp_path: Path) -> None:
    base = cast(random_state(1, vocab=9_000, width=64))
    post = cast(near(random_state(1, vocab=9_000, width=64), 2, vocab=17_001))
    other = cast(near(random_state(1, vocab=9_000, width=64), 3, vocab=20_000))
    for name, state in (("base", base), ("post", post), ("new", other)):
        write_model(tmp_path / name, state)
    delta = str(tmp_path / "d.safetensors")
    compute(str(tmp_path / "base"), str(tmp_path / "post"), delta)
    moved = {n: formula(other[n], (1.0, post[n], base[n])) for n in other}
    new_rows = post["model.embed_tokens.weight"][9_000:]  # whole, whatever the new base has there
    moved["model.embed_tokens.weight"][9_000:17_001] = new_rows
    for name, expected in (("base", post), ("new", moved)):
        apply(str(tmp_path / name), [delta], str(tmp_path / f"{name}-out"))
        found = read_model(tmp_path / f"{name}-out")
        assert all(same_bits(found[n], expected[n]) for n in expected)


def test_shards_keep_to_their_size_and_the_index_names_them(family: Family) -> None:
    delta = str(family.folder / "d.safetensors")
    compute(family.base, family.post, delta)
    out = family.folder / "out"
    apply(family.base, [delta], str(out), shard_size="3KB")
    index = json.loads((out / "model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in out.glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert sorted(set(index["weight_map"].values())) == shards
    total = 0
    for shard in shards:
        with safe_open(out / shard, "pt") as file:
            assert file.metadata() == {"format": "pt"}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assert {name for name, place in index["weight_map"].items() if place == shard} == set(tensors)
        size = sum(tensor.nbytes for tensor in tensors.values())
        assert size <= 3000 or len(tensors) == 1
        total += size
    assert index["metadata"]["total_size"] == total
    found, post = family.state("out"), family.state("post")
    assert all(same_bits(found[name], post[name]) for name in post)


def test_shards_of_the_inputs_do_not_matter(family: Family) -> None:
    """The same tensors in other files, in another order, make the same delta."""
    whole, split = family.folder / "whole", family.folder / "split"
    compute(family.base, family.post, str(whole))
    for name in ("base", "post"):
        folder = family.folder / name
        state = load_file(folder / "model.safetensors")
        (folder / "model.safetensors").unlink()
        names = sorted(state, reverse=name == "post")
        places = {}
        for number in range(3):
            shard = f"model-{number}.safetensors"
            held = names[number::3]
            save_file({n: state[n] for n in held}, folder / shard)
            places.update(dict.fromkeys(held, shard))
        index = json.dumps({"metadata": {}, "weight_map": places})
        (folder / "model.safetensors.index.json").write_text(index)
    first = compute(family.base, family.post, str(split))
    assert first.post_fingerprint is not None
    apply(family.base, [str(split)], str(family.folder / "a"))
    with safe_open(whole, "pt") as one, safe_open(split, "pt") as two:
        assert set(one.keys()) == set(two.keys())
    again = compute(family.base, str(family.folder / "a"), str(family.folder / "again"))
    assert again.post_fingerprint == first.post_fingerprint


def test_the_number_of_open_files_does_not_grow_with_the_model(family: Family) -> None:
    delta = str(family.folder / "d.safetensors")
    compute(family.base, family.post, delta)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in range(3):
        apply(family.base, [delta], str(family.folder / f"out-{number}"), shard_size=2048)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_there_may_be_more_shards_than_a_process_may_open_files(family: Family) -> None:
    """1,024 open files are the usual limit; large models at small shard sizes come near it."""
    state = {f"w{n:03d}": torch.full((64,), n, dtype=torch.bfloat16) for n in range(200)}
    base = family.add("many", state)
    post = family.add("many-post", {name: tensor + 1 for name, tensor in state.items()})
    delta = str(family.folder / "d.safetensors")
    compute(base, post, delta)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (150, hard))
    try:
        apply(base, [delta], str(family.folder / "out"), shard_size=128)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    found = family.state("out")
    assert np.array_equal(sorted(found), sorted(state))
