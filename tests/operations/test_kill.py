"""Killed at any moment, compute and apply leave nothing partial, and a second run succeeds."""

from __future__ import annotations

import random
import shutil
import struct
from pathlib import Path

import pytest
import torch
from clouds import Cloud
from effort import times
from forks import Forks
from models import layered_state, write_model
from safetensors.torch import load_file

import pipeline
from pipeline import apply, compute, open_checkpoint
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.errors import NotACheckpoint

KILLS = times(4, 25)
TENSOR_BYTES = 5 << 20


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of three sizes, and for each what compute and apply make of it, undisturbed."""
    folder = tmp_path_factory.mktemp("models")
    for size, states in (
        ("large", [layered_state(8, TENSOR_BYTES, seed) for seed in (0, 1)]),
        ("medium", [layered_state(3, TENSOR_BYTES, seed) for seed in (0, 1)]),
        ("small", [{n: torch.full((9, 3), float(v)) for n in "abc"} for v in (1, 2)]),
    ):
        for name, state in zip(("base", "post"), states, strict=True):
            write_model(folder / f"{size}-{name}", state)
        for file in ("tokenizer.json", "chat_template.jinja"):
            (folder / f"{size}-post" / file).write_text("{}")
        base, post = (str(folder / f"{size}-{name}") for name in ("base", "post"))
        compute(base, post, str(folder / f"{size}-delta"))
        apply(base, [str(folder / f"{size}-delta")], str(folder / f"{size}-result"))
    for what, name in WRITES.items():
        if name != "delta":
            function, *arguments = call(folder, "small", what, str(folder / f"small-{name}"))
            getattr(pipeline, function)(*arguments, **OPTIONS.get(what, {}))
    return folder


# What makes a delta, and what it is called; and the options that it is made with.
WRITES = {"compute": "delta", "compute plain": "plain", "combine": "sum", "convert": "converted"}
OPTIONS = {"compute plain": {"codec": "none"}, "convert": {"codec": "none"}}


def call(models: Path, size: str, what: str, output: str) -> list[object]:
    """The function and its arguments."""
    base, post, delta = (str(models / f"{size}-{name}") for name in ("base", "post", "delta"))
    match what:
        case "apply":
            return ["apply", base, [delta], output]
        case "combine":
            return ["combine", [[delta, 0.5]], output]
        case "convert":
            return ["convert", delta, output]
    return ["compute", base, post, output]


def content(path: Path) -> dict[str, bytes]:
    """The bytes below `path`, by name; hidden files, which readers do not look at, are left out."""
    files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
    return {each.name: each.read_bytes() for each in files if ".partial-" not in str(each)}


def expected(models: Path, size: str, what: str) -> dict[str, bytes]:
    found = content(models / f"{size}-{WRITES.get(what, 'result')}")
    return {("out" if what in WRITES else name): data for name, data in found.items()}


def same(found: dict[str, bytes], right: dict[str, bytes]) -> bool:
    """Equal but for the files that name the delta's location."""
    named = {"README.md", "paramdelta.json"}
    return found.keys() == right.keys() and all(found[n] == right[n] for n in right if n not in named)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["compute", "apply"])
def test_a_run_killed_at_random_leaves_all_or_nothing(
    models: Path, forks: Forks, tmp_path: Path, what: str
) -> None:
    right = expected(models, "large", what)
    first = forks.call(*call(models, "large", what, str(tmp_path / "first" / "out")))
    assert first.code == 0
    rng = random.Random(what)
    killed, shortest = 0, first.seconds
    for number in range(KILLS):
        moment = shortest * (number + rng.random()) / KILLS
        out = tmp_path / str(number) / "out"
        arguments = call(models, "large", what, str(out))
        done = forks.call(*arguments, after=moment)
        if done.code == -9:
            killed += 1
        else:  # the next ones come while it works
            shortest = min(shortest, done.seconds)
        visible = content(out.parent)
        assert not visible or same(visible, right), f"killed after {moment:.3f} of {shortest:.3f} s"
        if not visible:
            assert not out.exists()
            assert forks.call(*arguments).code == 0
            assert same(content(out), right)
            assert [path.name for path in out.parent.iterdir()] == ["out"]
        shutil.rmtree(out.parent, ignore_errors=True)
    assert killed >= KILLS // 2


@pytest.mark.parametrize("what", [*WRITES, "apply"])
def test_a_run_killed_at_any_step_of_publishing_leaves_all_or_nothing(
    models: Path, forks: Forks, tmp_path: Path, what: str
) -> None:
    right = expected(models, "small", what)
    for step in range(1, 100):
        out = tmp_path / str(step) / "out"
        arguments = call(models, "small", what, str(out))
        options = OPTIONS.get(what, {})
        code = forks.call(*arguments, step=step, **options).code
        visible = content(out.parent)
        assert not visible or same(visible, right), f"killed at step {step}"
        if code == 0:
            break
        assert code == -9
        if not visible:
            assert forks.call(*arguments, **options).code == 0
            assert same(content(out), right)
    assert step > 3


@pytest.mark.parametrize("what", [*WRITES, "apply"])
def test_an_overwriting_run_killed_at_any_step_leaves_the_old_or_the_new(
    models: Path, forks: Forks, tmp_path: Path, what: str
) -> None:
    right = expected(models, "small", what)
    for step in range(1, 100):
        out = tmp_path / str(step) / "out"
        if what in WRITES:
            out.parent.mkdir()
            out.write_bytes(b"old")
        else:
            write_model(out, {"old": torch.ones(1)})
        old = content(out)
        options = {**OPTIONS.get(what, {}), "overwrite": True}
        code = forks.call(*call(models, "small", what, str(out)), step=step, **options).code
        found = content(out)
        assert found == old or same(found, right), f"killed at step {step}: {sorted(found)}"
        if code == 0:
            break
    assert code == 0


def test_a_run_into_a_container_killed_at_random_leaves_all_or_nothing(
    models: Path, forks: Forks, cloud: Cloud, tmp_path: Path
) -> None:
    rng = random.Random(7)
    for what in ("compute", "apply"):
        right = expected(models, "medium", what)
        address, _, token = cloud.url.partition("?")
        first = forks.call(*call(models, "medium", what, f"{address}/{what}-first/out?{token}"))
        assert first.code == 0
        for number in range(2):
            moment = first.seconds * (number + rng.random()) / 2
            prefix = f"{what}-{number}"
            arguments = call(models, "medium", what, f"{address}/{prefix}/out?{token}")
            forks.call(*arguments, after=moment)
            names = cloud.names(f"{prefix}/")
            if names and (what == "compute" or f"{prefix}/out/config.json" in names):
                assert {Path(name).name for name in names} == right.keys()
            else:
                assert forks.call(*arguments).code == 0
            folder = cloud.download(f"{prefix}/out" if what == "apply" else prefix, tmp_path / prefix)
            assert same(content(folder), right)


def test_a_model_on_its_way_into_a_container_is_no_model_until_it_is_whole(
    models: Path, forks: Forks, cloud: Cloud, tmp_path: Path
) -> None:
    """Killed before each of the commits that publish it; the same command then succeeds."""
    right = expected(models, "small", "apply")
    address, _, token = cloud.url.partition("?")
    for commit in range(1, 20):
        out = f"at-{commit}/out"
        arguments = call(models, "small", "apply", f"{address}/{out}?{token}")
        code = forks.call(*arguments, commit=commit).code
        if code == 0:
            break
        assert f"{out}/config.json" not in cloud.names()
        assert forks.call(*arguments).code == 0, f"killed before commit {commit}"
        assert same(content(cloud.download(out, tmp_path / str(commit))), right)
    assert commit > 4


def first_values(model: Checkpoint) -> set[float]:
    """The first number of each tensor."""
    values = set()
    for source in model.tensors.values():
        first = bytearray(4)
        model.readers[source.file].read_into(source.entry.offset, memoryview(first))
        values.add(struct.unpack("<f", first)[0])
    return values


def test_a_model_overwritten_in_a_container_is_never_read_as_a_mix(
    models: Path, forks: Forks, cloud: Cloud
) -> None:
    """Killed before a commit, it is refused as unfinished; the same command then succeeds."""
    address, _, token = cloud.url.partition("?")
    out = f"{address}/out?{token}"
    arguments = call(models, "small", "apply", out)
    assert forks.call(*arguments, scale=0.5, shard_size=100).code == 0
    for number, commit in enumerate([1, 2, 3, *range(5, 20, 2)]):  # the first three are of shards
        scale = 0.5 if number % 2 else 1.0
        options = {"scale": scale, "shard_size": 100, "overwrite": True}
        code = forks.call(*arguments, commit=commit, **options).code
        if code == 0:
            break
        with pytest.raises(NotACheckpoint, match="--overwrite"):
            open_checkpoint(out)
        assert forks.call(*arguments, **options).code == 0, f"killed before commit {commit}"
        with open_checkpoint(out) as model:
            assert first_values(model) == {1 + scale}
    assert commit > 6
    with open_checkpoint(out) as model:
        assert first_values(model) == {1 + scale}


def test_the_undisturbed_results_are_right(models: Path) -> None:
    for size in ("large", "medium", "small"):
        result, post = (
            load_file(models / f"{size}-{n}" / "model.safetensors") for n in ("result", "post")
        )
        assert all(torch.equal(result[name], post[name]) for name in post)
