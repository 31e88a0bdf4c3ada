"""Which bases a delta fits, and what becomes of tensors and rows that one side lacks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import State, cast, formula, near, random_state, read_model, same_bits, write_model

from pipeline import apply, compute
from pipeline.errors import Mismatch

EMBEDDING = "model.embed_tokens.weight"


def transfer(folder: Path, base: State, post: State, new: State, **options: object) -> State:
    """The tensors of new + (post - base)."""
    for name, state in (("base", base), ("post", post), ("new", new)):
        write_model(folder / name, state)
    delta = str(folder / "delta.safetensors")
    compute(str(folder / "base"), str(folder / "post"), delta, workers=1)
    apply(str(folder / "new"), [delta], str(folder / "out"), workers=1, **options)
    return read_model(folder / "out")


BASE = random_state(1)


def test_rows_that_only_post_has_are_posts_own(tmp_path):
    base, post, new = cast(BASE), cast(near(BASE, 2, vocab=53)), cast(near(BASE, 3))
    found = transfer(tmp_path, base, post, new)
    assert same_bits(found[EMBEDDING][50:], post[EMBEDDING][50:])
    assert same_bits(found[EMBEDDING], formula(new[EMBEDDING], (1.0, post[EMBEDDING], base[EMBEDDING])))


def test_rows_that_only_the_new_base_has_stay_as_they_are(tmp_path):
    base, post, new = cast(BASE), cast(near(BASE, 2)), cast(near(BASE, 3, vocab=60))
    found = transfer(tmp_path, base, post, new)
    assert same_bits(found[EMBEDDING][50:], new[EMBEDDING][50:])


def test_a_base_that_lacks_rows_of_the_old_base_does_not_fit(tmp_path):
    """There the delta is a difference, not post's row: added to nothing it would mean nothing."""
    large = near(BASE, 9, vocab=60)
    with pytest.raises(Mismatch, match=r"embed_tokens.*50 × 16.*60 × 16"):
        transfer(tmp_path, cast(large), cast(near(large, 2)), cast(near(BASE, 3)))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", [0, 1], ids=["unchanged", "changed"])
def test_carried_rows_may_grow_with_the_vocabulary(tmp_path, change):
    ids = torch.arange(50)
    base, new = cast(BASE) | {"ids": ids}, cast(near(BASE, 3)) | {"ids": ids}
    post = cast(near(BASE, 2, vocab=53)) | {"ids": torch.arange(53) + change}
    found = transfer(tmp_path / "other", base, post, new)
    assert same_bits(found["ids"], post["ids"])
    found = transfer(tmp_path / "same", base, post, base)
    assert same_bits(found["ids"], post["ids"])


@pytest.mark.parametrize("change", [0, 1], ids=["unchanged", "changed"])
def test_carried_rows_that_only_the_new_base_has_stay_as_they_are(tmp_path, change):
    base, post = cast(BASE) | {"ids": torch.arange(50)}, cast(near(BASE, 2))
    new = cast(near(BASE, 3, vocab=60)) | {"ids": torch.arange(60) + 7}
    found = transfer(tmp_path, base, post | {"ids": torch.arange(50) + change}, new)
    first = torch.arange(50) + (change or 7)
    assert torch.equal(found["ids"], torch.cat([first, new["ids"][50:]]))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8], ids=str)
def test_a_carried_tensor_that_post_left_alone_keeps_the_new_bases_values_and_format(tmp_path, dtype):
    old = {"w": torch.ones(2), "ids": torch.arange(5, dtype=torch.int32)}
    new = {"w": torch.ones(2), "ids": (torch.arange(5) + 3).to(dtype)}
    found = transfer(tmp_path, old, dict(old), new)
    assert same_bits(found["ids"], new["ids"])


def test_a_carried_tensor_that_post_changed_is_posts(tmp_path):
    base = {"w": torch.ones(2), "ids": torch.arange(5, dtype=torch.int32)}
    post = {"w": torch.ones(2), "ids": torch.arange(5, dtype=torch.int32) + 1}
    found = transfer(tmp_path, base, post, {"w": torch.zeros(2), "ids": torch.arange(5)})
    assert same_bits(found["ids"], post["ids"])
