"""Eight processes write one name at once: what lies there in the end is one process's, whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from clouds import Cloud
from forks import SMALL_AND_QUICK, Done, Forks
from models import cast, near, random_state, write_model
from operations.conftest import Snapshot
from servers.azurite import Azurite

from pipeline import apply, compute
from pipeline.errors import OutputExists

RACERS = 8
Files = dict[str, bytes]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, eight posts of it, and the delta of each."""
    folder = tmp_path_factory.mktemp("models")
    base = random_state(1)
    write_model(folder / "base", cast(base))
    for number in range(RACERS):
        post = write_model(folder / f"post-{number}", cast(near(base, 10 + number)))
        compute(str(folder / "base"), str(post), str(folder / f"delta-{number}"), workers=1)
    return folder


@pytest.fixture(scope="module")
def racers(models: Path, azurite: Azurite, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    env = {"AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string}
    place = tmp_path_factory.mktemp("racers")
    warm_up = [
        [*words_of(models, 0, what), "--output", str(place / what)] for what in ("compute", "apply")
    ]
    with Forks(place, warm_up, env, values=SMALL_AND_QUICK) as forks:
        yield forks


def words_of(models: Path, number: int, what: str) -> list[str]:
    """The command of one of the eight, but for its output."""
    model = ["--post", str(models / f"post-{number}")]
    delta = ["--delta", str(models / f"delta-{number}"), "--shard-size", "4KB"]
    more = model if what == "compute" else delta
    return [what, "--base", str(models / "base"), *more, "--workers", "1"]


@pytest.fixture
def contents(models: Path, tmp_path: Path, snapshot: Snapshot) -> dict[str, list[Files]]:
    """What each of the eight would write, by command; a delta's name is empty."""
    results = []
    for number in range(RACERS):
        out = tmp_path / f"out-{number}"
        apply(
            str(models / "base"),
            [str(models / f"delta-{number}")],
            str(out),
            shard_size="4KB",
            workers=1,
        )
        results.append(snapshot(out))
    deltas = [{"": (models / f"delta-{number}").read_bytes()} for number in range(RACERS)]
    return {"compute": deltas, "apply": results}


def left(cloud: Cloud) -> Files:
    """All that lies in the container, by what follows the name that was fought for."""
    return {name.removeprefix("out").removeprefix("/"): cloud.read(name) for name in cloud.names()}


def race(racers: Forks, models: Path, cloud: Cloud, what: str, *more: str) -> list[Done]:
    output = ["--output", f"{cloud.location}/out", *more]
    return racers.race([[*words_of(models, number, what), *output] for number in range(RACERS)])


@pytest.mark.parametrize("what", ["compute", "apply"])
def test_of_eight_that_want_a_free_name_one_gets_it_and_the_others_say_so(
    what: str, racers: Forks, models: Path, cloud: Cloud, contents: dict[str, list[Files]]
) -> None:
    done = race(racers, models, cloud, what)
    codes = [each.code for each in done]
    assert sorted(codes, key=str) == [0, *[OutputExists.exit_code] * (RACERS - 1)], codes
    assert left(cloud) == contents[what][codes.index(0)]
    for each in done:
        if each.code:
            error = each.errors.strip().rpartition("\n")[2]
            assert error.startswith("error: ")
            assert "already exists" in error or "another run" in error
            assert "--overwrite" in error


@pytest.mark.parametrize("what", ["compute", "apply"])
def test_of_eight_that_overwrite_the_content_is_one_of_theirs_that_say_they_won(
    what: str, racers: Forks, models: Path, cloud: Cloud, contents: dict[str, list[Files]]
) -> None:
    for name in ("out",) if what == "compute" else ("out/old.safetensors", "out/config.json"):
        cloud.client.upload_blob(name, b"old")
    done = race(racers, models, cloud, what, "--overwrite")
    codes = [each.code for each in done]
    assert 0 in codes
    assert set(codes) <= {0, OutputExists.exit_code}, [each.errors for each in done if each.code]
    found = left(cloud)
    assert found in [contents[what][number] for number, code in enumerate(codes) if code == 0]
    for each in done:
        if each.code:
            assert each.errors.strip().rpartition("\n")[2].startswith("error: ")
