"""What the tests of operations share: a family of small models, and a place of one's own in Azurite."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from keys import make_pair
from models import State, cast, near, random_state, read_model, write_model

from pipeline import apply, compute, list_store
from pipeline.operations.storing.listing import Listed

Snapshot = Callable[[Path], dict[str, bytes]]
DELTA = "deltas/d.safetensors"  # in a `shelf`


@pytest.fixture(autouse=True)
def away_from_home(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No `.env` of whoever runs the tests is read."""
    monkeypatch.chdir(tmp_path_factory.mktemp("cwd"))


@dataclass(frozen=True)
class Family:
    """Model folders, and the state of each: base, post-trained from it, and a later base."""

    folder: Path

    @property
    def base(self) -> str:
        return str(self.folder / "base")

    @property
    def post(self) -> str:
        return str(self.folder / "post")

    @property
    def new_base(self) -> str:
        return str(self.folder / "new-base")

    def state(self, name: str) -> State:
        return read_model(self.folder / name)

    def add(self, name: str, state: State, **config: object) -> str:
        return str(write_model(self.folder / name, state, **config))


@pytest.fixture
def family(tmp_path: Path) -> Family:
    """A family in bfloat16."""
    made = Family(tmp_path)
    base = random_state(1)
    made.add("base", cast(base))
    made.add("post", cast(near(base, 2)))
    made.add("new-base", cast(near(base, 3, scale=1e-2)))
    return made


@pytest.fixture
def snapshot() -> Snapshot:
    """The bytes of every file below a folder, hidden ones too."""

    def take(folder: Path) -> dict[str, bytes]:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}

    return take


@pytest.fixture
def shelf(family: Family, tmp_path: Path) -> str:
    """A store with a signed delta, a signed model and a file that is neither."""
    pair = make_pair(tmp_path, "ed25519")
    store = str(tmp_path / "shelf")
    compute(family.base, family.post, DELTA, store=store, sign_key=pair.private)
    apply(
        family.new_base,
        [DELTA],
        f"{store}/models/m",
        store=store,
        shard_size=4096,
        sign_key=pair.private,
    )
    Path(store, "notes.txt").write_text("notes")
    return store


@pytest.fixture
def key(shelf: str, tmp_path: Path) -> str:
    return str(tmp_path / "ed25519-public.pem")


@pytest.fixture
def large(family: Family) -> str:
    """A model of 3 MiB, to be copied in more than a block, and by the service itself."""
    generator = torch.Generator().manual_seed(1)
    return family.add("large", {"w": torch.randn(3 << 19, generator=generator).to(torch.bfloat16)})


def listed(store: str, place: str | None = None) -> dict[str, Listed]:
    """What is in a store, by name."""
    return {item.name: item for item in list_store(place, store=store).items}


def delta_of(family: Family, post: str = "post", **options: Any) -> str:
    """The delta of the family's base and that post, made now."""
    path = str(family.folder / f"{post}.safetensors")
    compute(family.base, str(family.folder / post), path, overwrite=True, **options)
    return path
