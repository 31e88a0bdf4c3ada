"""What the strings that people write mean, and that none of them shows a secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.errors import UsageError
from pipeline.settings import Settings
from pipeline.storage.locations import (
    Location,
    Scheme,
    parse_delta,
    parse_model,
    parse_output_model,
)
from pipeline.storage.opening import open_parent

HUB, LOCAL, AZURE, STORE = Scheme.HUB, Scheme.LOCAL, Scheme.AZURE, Scheme.STORE
ACCOUNT = "https://acc.blob.core.windows.net"
EMULATOR = "http://127.0.0.1:10000/acc"
CANARY = "Y2FuYXJ5LWluLWEtY29hbC1taW5l"

Parse = Callable[[str], Location]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("org/name", Location(HUB, "org/name")),
        ("gpt2", Location(HUB, "gpt2")),
        ("org/name@v1.0", Location(HUB, "org/name", "v1.0")),
        ("org/name@refs/pr/3", Location(HUB, "org/name", "refs/pr/3")),
        ("hf://org/na-me_1.2@main", Location(HUB, "org/na-me_1.2", "main")),
        ("org/name/x.Q8_0.gguf", Location(HUB, "org/name", file="x.Q8_0.gguf")),
        ("hf://org/name@main/x.gguf", Location(HUB, "org/name", "main", file="x.gguf")),
        ("org/name@refs/pr/3/x.gguf", Location(HUB, "org/name", "refs/pr/3", file="x.gguf")),
        ("org/x.gguf", Location(HUB, "org/x.gguf")),
        ("./dir", Location(LOCAL, "./dir")),
        ("../x", Location(LOCAL, "../x")),
        (".", Location(LOCAL, ".")),
        ("/dir/model.safetensors", Location(LOCAL, "/dir/model.safetensors")),
        ("file:///some%20dir/x", Location(LOCAL, "/some dir/x")),
        ("az://con-tainer/a/b", Location(AZURE, "a/b", container="con-tainer")),
        ("az://container", Location(AZURE, "", container="container")),
        ("az://container/a/", Location(AZURE, "a", container="container")),
        (f"{ACCOUNT}/container/a%20b", Location(AZURE, "a b", None, ACCOUNT, "container")),
        (f"{EMULATOR}/container/a", Location(AZURE, "a", None, EMULATOR, "container")),
        (f"{ACCOUNT}/container/a?s=x%2B", Location(AZURE, "a", None, ACCOUNT, "container", "s=x%2B")),
        (
            "https://acc.blob.core.usgovcloudapi.net/container/a",
            Location(AZURE, "a", None, "https://acc.blob.core.usgovcloudapi.net", "container"),
        ),
    ],
)
def test_a_model_is_where_its_location_says(text: str, meant: Location) -> None:
    assert parse_model(text) == meant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hf://",
        "hf://a b",
        "az://",
        "az://UPPER/x",
        "az://a/x",
        "az://con--tainer/x",
        "az://container/../x",
        "az://container/a//b",
        "ftp://host/x",
        "s3://bucket/x",
        "http://acc.blob.core.windows.net/container/x",
        "https://acc.blob.core.windows.net",
        "https://acc.blob.core.windows.net/",
        "http://127.0.0.1:10000",
        "org/na\nme",
        "hf://org/name/../x.gguf",
        "hf://org/name/sub/x.gguf",
        "hf://org/name/x.safetensors",
    ],
)
@pytest.mark.parametrize("parse", [parse_model, parse_delta, parse_output_model])
def test_what_cannot_be_a_location_is_refused(text: str, parse: Parse) -> None:
    with pytest.raises(UsageError):
        parse(text)


@pytest.mark.parametrize("text", ["a b", "org/name/more", "-x", "org/name@", "org/na..me/x"])
def test_what_is_neither_a_folder_nor_a_hub_id_is_no_model(text: str) -> None:
    with pytest.raises(UsageError, match="neither a folder that exists nor a Hub id"):
        parse_model(text)


def test_a_local_folder_wins_over_a_hub_id_of_the_same_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_model("org/name").scheme is HUB
    (tmp_path / "org" / "name").mkdir(parents=True)
    assert parse_model("org/name") == Location(LOCAL, "org/name")
    assert parse_model("hf://org/name").scheme is HUB


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_model("~/model") == Location(LOCAL, str(tmp_path / "model"))


def test_a_plain_name_of_a_delta_is_one_in_the_store() -> None:
    assert parse_delta("deltas/x.safetensors") == Location(STORE, "deltas/x.safetensors")
    assert parse_delta("./deltas/x.safetensors").scheme is LOCAL
    with pytest.raises(UsageError):
        parse_delta("x/../../y")


def test_nothing_is_written_to_the_hub_and_no_delta_read_from_it() -> None:
    with pytest.raises(UsageError, match="Hub"):
        parse_delta("hf://org/name")
    with pytest.raises(UsageError, match="Hub"):
        parse_output_model("hf://org/name")
    assert parse_output_model("org/name") == Location(LOCAL, "org/name")


@pytest.mark.parametrize(
    "text",
    [
        f"{ACCOUNT}/container/x?sig={CANARY}",
        f"{EMULATOR}/container/x?sig={CANARY}",
        f"https://user:{CANARY}@acc.blob.core.windows.net/container/x",
    ],
)
def test_a_location_never_shows_its_secret(text: str) -> None:
    location = parse_model(text)
    assert CANARY not in str(location)
    assert CANARY not in repr(location)
    assert str(location).endswith("/container/x")


@pytest.mark.parametrize(
    "text",
    [
        f"{ACCOUNT}/container/x?sig={CANARY}\n",
        f"{ACCOUNT}/UPPER/x?sig={CANARY}",
        f"{ACCOUNT}/container/../x?sig={CANARY}",
        f"{ACCOUNT}?sig={CANARY}",
        f"http://acc.blob.core.windows.net/container/x?sig={CANARY}",
        f"htps://acc.blob.core.windows.net/container/x?sig={CANARY}",
        f"acc.blob.core.windows.net/container/x?sig={CANARY}",
        f"https://acc.blob.core.windows.net:port/container/x?sig={CANARY}",
    ],
)
@pytest.mark.parametrize("parse", [parse_model, parse_delta, parse_output_model])
def test_a_location_that_is_refused_does_not_show_its_secret(text: str, parse: Parse) -> None:
    try:
        location = parse(text)
        if location.scheme is AZURE:
            open_parent(location, Settings())
    except UsageError as error:
        assert CANARY not in str(error)
    else:
        assert location.scheme in (LOCAL, STORE)  # a strange name of a file, but one
