"""One GGUF file of a Hub repository that has several, by its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from gguf import GGMLQuantizationType as Kind
from ggufs import write_gguf
from servers.hub import HubServer
from storage.hub.helpers import REPO

from pipeline import open_checkpoint
from pipeline.errors import NotACheckpoint, NotFound, UsageError
from pipeline.storage.hub.pushing import HubTarget
from pipeline.storage.locations import parse_model

pytestmark = pytest.mark.usefixtures("client")


@pytest.fixture
def repo(hub: HubServer, tmp_path: Path) -> str:
    """A repository with two quantisations of one model; returns its commit."""
    source = tmp_path / "source"
    write_gguf(source / "m.Q8_0.gguf", Kind.Q8_0)
    write_gguf(source / "m.Q4_0.gguf", Kind.Q4_0)
    (source / "tokenizer.json").write_text("{}")
    return hub.add_repo(REPO, source).sha()


@pytest.mark.parametrize("revision", ["", "@main"])
@pytest.mark.parametrize("prefix", ["", "hf://"])
def test_the_file_that_is_named_is_read(repo: str, prefix: str, revision: str) -> None:
    for kind in ("Q8_0", "Q4_0"):
        with open_checkpoint(f"{prefix}{REPO}{revision}/m.{kind}.gguf", headers_only=True) as model:
            assert model.derived == f"GGUF {kind}, dequantised"
            assert (model.location, model.revision) == (f"hf://{REPO}/m.{kind}.gguf", repo)
            assert model.read_companions() == {"tokenizer.json": b"{}"}
            assert str(parse_model(model.location)) == model.location


def test_without_a_name_the_files_are_told_and_how_to_name_one(repo: str) -> None:
    with pytest.raises(NotACheckpoint, match=r"m\.Q4_0\.gguf, m\.Q8_0\.gguf .*slash and its name"):
        open_checkpoint(REPO, headers_only=True)


def test_a_file_that_is_not_there_is_not_found(repo: str) -> None:
    with pytest.raises(NotFound, match=r"m\.Q2_K\.gguf"):
        open_checkpoint(f"{REPO}/m.Q2_K.gguf")


def test_nothing_is_pushed_to_a_file() -> None:
    with pytest.raises(UsageError, match="not a repository"):
        HubTarget.parse(f"{REPO}/m.gguf")
