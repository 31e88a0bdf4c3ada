"""A delta with something in each of its parts, made once; keys, and what they signed."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from keys import MAKERS, Pair, make_pair
from models import State, cast, near, random_state, write_model

from pipeline import apply, compute, verify
from pipeline.deltas.format import CODECS, Codec
from pipeline.operations.apply import ApplyReport

TOKENIZER = json.dumps({"model": {"vocab": {f"t{i}": i for i in range(50)}}})


@dataclass(frozen=True)
class Made:
    """Two models and the delta between them, packed by `codec`."""

    codec: Codec
    base: Path
    post: Path
    delta: Path
    base_state: State = field(repr=False)
    post_state: State = field(repr=False)

    def apply(self, output: Path, delta: Path | None = None) -> ApplyReport:
        """Restore post from the base, with this delta or another file."""
        return apply(str(self.base), [str(delta or self.delta)], str(output), workers=2)


@pytest.fixture(scope="session")
def forms(tmp_path_factory: pytest.TempPathFactory) -> dict[Codec, Made]:
    """The same delta in each form of the file.

    bfloat16 models with remainders, exceptions, a carried tensor, a grown vocabulary, companions.
    """
    folder = tmp_path_factory.mktemp("delta")
    base = random_state(1)
    post = near(base, 2, scale=0.01, vocab=53)
    old, new = cast(base), cast(post)
    old["steps"], new["steps"] = torch.arange(9), torch.arange(9) + 1
    new["model.norm.weight"][0] = -0.0
    new["model.norm.weight"][1] = torch.nan
    write_model(folder / "base", old)
    write_model(folder / "post", new)
    (folder / "post" / "tokenizer.json").write_text(TOKENIZER)
    (folder / "post" / "generation_config.json").write_text('{"eos_token_id": 7}')
    found: dict[Codec, Made] = {}
    for codec in CODECS:
        path = folder / f"{codec}.safetensors"
        report = compute(str(folder / "base"), str(folder / "post"), str(path), codec=codec, workers=2)
        assert report.remainders and report.exceptions and report.carried
        found[codec] = Made(codec, folder / "base", folder / "post", path, old, new)
    return found


@pytest.fixture(params=CODECS)
def made(forms: dict[Codec, Made], request: pytest.FixtureRequest) -> Made:
    """The delta in either form: the test is run for both."""
    return forms[request.param]


@pytest.fixture
def plain(forms: dict[Codec, Made]) -> Made:
    """The delta in the form that any safetensors reader understands."""
    return forms["none"]


@pytest.fixture
def packed(forms: dict[Codec, Made]) -> Made:
    """The delta in the form that is the default."""
    return forms["rans"]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """A pair of each kind, and another of Ed25519."""
    folder = tmp_path_factory.mktemp("keys")
    found = {kind: make_pair(folder, kind) for kind in MAKERS}
    return {**found, "other": make_pair(folder, "ed25519", name="other")}


@pytest.fixture
def pair(pairs: dict[str, Pair]) -> Pair:
    return pairs["ed25519"]


@pytest.fixture(scope="module")
def signed_once(
    forms: dict[str, Made], pairs: dict[str, Pair], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A signed delta."""
    path = tmp_path_factory.mktemp("signed") / "d.safetensors"
    made = forms["rans"]
    compute(str(made.base), str(made.post), str(path), sign_key=pairs["ed25519"].private)
    return path


@pytest.fixture
def signed(signed_once: Path, tmp_path: Path) -> Path:
    """A copy of the signed delta, with its signature beside it."""
    for path in (signed_once, beside(signed_once)):
        shutil.copy(path, tmp_path)
    return tmp_path / signed_once.name


def beside(path: Path) -> Path:
    """Where its signature lies."""
    return path.with_name(f"{path.name}.sig")


def checked(path: Path, pair: Pair, **options: Any) -> str | None:
    """Whose signature is found to be good, with that key."""
    return verify(str(path), key=pair.public, workers=1, **options).signed_by
