"""A difference on the way is refused for what its delta would be, and in the same words."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from operations.conftest import Family
from operations.test_fused import EMBEDDING, Term, fused, unfused

from pipeline import Difference, apply
from pipeline.errors import (
    Mismatch,
    NotACheckpoint,
    NotFound,
    PipelineError,
    Unsigned,
    UsageError,
)


def failures(family: Family, terms: Sequence[tuple[Term, float]]) -> tuple[PipelineError, PipelineError]:
    """What the fused run and the other raise; the fused one, dry or not, has written nothing."""
    before = sorted(family.folder.rglob("*"))
    with pytest.raises(PipelineError) as dry:
        fused(family.folder, family.new_base, terms, dry_run=True)
    with pytest.raises(PipelineError) as found:
        fused(family.folder, family.new_base, terms)
    assert str(dry.value) == str(found.value)
    assert sorted(family.folder.rglob("*")) == before
    with pytest.raises(PipelineError) as wanted:
        unfused(family.folder, family.new_base, terms)
    return found.value, wanted.value


def test_models_that_do_not_fit_each_other_are_refused_with_all_problems(family: Family) -> None:
    post = family.state("post")
    del post["model.norm.weight"]
    post["more"] = post[EMBEDDING][:, :3]
    post[EMBEDDING] = post[EMBEDDING][:40]
    family.add("post", post)
    found, wanted = failures(family, [((family.base, family.post), 1.0)])
    assert isinstance(found, Mismatch)
    assert len(found.problems) == 3
    assert str(found) == str(wanted)


def test_a_new_base_that_does_not_fit_is_refused_with_all_problems(family: Family) -> None:
    other = family.state("new-base")
    del other["model.norm.weight"]
    other[EMBEDDING] = other[EMBEDDING][:40]
    family.add("new-base", other)
    found, wanted = failures(family, [((family.base, family.post), 1.0)])
    assert isinstance(found, Mismatch)
    assert isinstance(wanted, Mismatch)
    said = str(found.problems).replace(f"{family.post} - {family.base}", "DELTA")
    assert said == re.sub(r"\S+unfused-0\.safetensors", "DELTA", str(wanted.problems))
    assert len(found.problems) == 2


@pytest.mark.parametrize("side", ["base", "post", "new-base"])
def test_tokenizers_that_disagree_are_refused(family: Family, side: str) -> None:
    for name in ("base", "post", "new-base"):
        word = "dog" if name == side else "cat"
        text = json.dumps({"model": {"vocab": {"a": 0, word: 1}}})
        (family.folder / name / "tokenizer.json").write_text(text)
    found, wanted = failures(family, [((family.base, family.post), 1.0)])
    assert isinstance(found, Mismatch)
    assert isinstance(wanted, Mismatch)
    assert found.problems == wanted.problems


@pytest.mark.parametrize(
    ("name", "kind"), [("nowhere", NotACheckpoint), ("empty", NotACheckpoint), ("x.bin", NotFound)]
)
def test_what_is_no_checkpoint_is_refused(family: Family, name: str, kind: type[PipelineError]) -> None:
    (family.folder / "empty").mkdir()
    for pair in ((family.base, str(family.folder / name)), (str(family.folder / name), family.post)):
        found, wanted = failures(family, [(pair, 1.0)])
        assert isinstance(found, kind)
        assert str(found) == str(wanted)


def test_names_that_deltas_keep_for_themselves_are_refused(family: Family) -> None:
    for name in ("base", "post", "new-base"):
        family.add(name, family.state(name) | {"__paramdelta__.x": torch.ones(1)})
    found, wanted = failures(family, [((family.base, family.post), 1.0)])
    assert isinstance(found, NotACheckpoint)
    assert str(found) == str(wanted)


def test_nonsense_is_refused(family: Family) -> None:
    out = str(family.folder / "out")
    with pytest.raises(UsageError, match="finite"):
        apply(family.new_base, [(Difference(family.base, family.post), float("inf"))], out)
    with pytest.raises(UsageError):
        apply(family.new_base, [Difference(family.base, "")], out)
    assert not (family.folder / "out").exists()


def test_a_difference_has_no_signature(family: Family, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    public = Ed25519PrivateKey.generate().public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    key = tmp_path / "key.pem"
    key.write_bytes(public.public_bytes(serialization.Encoding.PEM, form))
    difference = Difference(family.base, family.post)
    with pytest.raises(Unsigned, match="made on the way"):
        apply(family.new_base, [difference], str(family.folder / "out"), key=str(key))
    assert not (family.folder / "out").exists()
