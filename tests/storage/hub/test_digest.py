"""What comes damaged from the Hub is noticed by its digest: fetched again, and never kept."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from servers.hub import HubServer
from servers.hub_reply import Reply
from servers.hub_repos import HubFile
from storage.hub.helpers import REPO, WEIGHTS, content

from pipeline.errors import CorruptFile
from pipeline.storage.hub.models import HubRepo


def flip(tmp_path: Path) -> Callable[[Reply], Reply]:
    """What changes one bit of a file on its way."""

    def change(reply: Reply) -> Reply:
        assert reply.file is not None
        content = bytearray(reply.file.source.read_bytes())
        content[len(content) // 2] ^= 1
        path = tmp_path / "flipped"
        path.write_bytes(content)
        return replace(reply, file=HubFile.read(path, reply.file.path))

    return change


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
@pytest.mark.parametrize("cache", ["on", "off"])
def test_a_whole_file_that_came_damaged_is_fetched_again(
    hub: HubServer, source: Path, tmp_path: Path, name: str, cache: str
) -> None:
    repo = HubRepo(REPO, None)
    hub.alter_next(name, flip(tmp_path))
    if cache == "on":
        repo.fetch([name])
    assert content(repo.open(name)) == (source / name).read_bytes()
    assert len(hub.gets(name)) == 2


@pytest.mark.parametrize("cache", ["on", "off"])
def test_a_whole_file_that_always_comes_damaged_is_refused_and_not_kept(
    hub: HubServer, source: Path, home: Path, tmp_path: Path, cache: str
) -> None:
    repo = HubRepo(REPO, None)
    hub.alter_next(WEIGHTS, flip(tmp_path), times=100)
    with pytest.raises(CorruptFile, match="digest"):
        repo.fetch([WEIGHTS]) if cache == "on" else content(repo.open(WEIGHTS))
    assert not list(home.rglob(WEIGHTS))
    assert not [path for path in home.rglob("blobs/*") if path.is_file()]
