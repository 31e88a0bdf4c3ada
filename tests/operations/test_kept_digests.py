"""Digests that are kept save work, and are never taken for those of other bytes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from keys import make_pair
from operations.conftest import Family, Snapshot
from tokenizers_for_tests import put, words

from pipeline import Difference, apply, compute
from pipeline.checkpoints import kept_digests
from pipeline.checkpoints.checkpoint import open_checkpoint
from pipeline.checkpoints.kept_digests import KeptDigests
from pipeline.errors import CorruptFile
from pipeline.operations.apply import SAME_BASE
from pipeline.operations.fingerprint import fingerprint
from pipeline.progress import Advance
from pipeline.storage.local import store
from pipeline.storage.local.store import LocalReader

WEIGHTS = "model.safetensors"


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder for digests, on a machine whose files were all made long ago."""
    monkeypatch.setattr(store, "TICK_NS", -(10**9))
    return str(tmp_path / "digests")


def nbytes(*models: str) -> int:
    """Bytes of the weights of models, without headers."""
    return sum(
        tensor.nbytes
        for model in models
        for tensor in Family(Path(model).parent).state(Path(model).name).values()
    )


def edit_in_place(model: str, at: int = -1) -> None:
    """Flip a bit of a model's weights, and leave the file its size, its number and its times."""
    path = Path(model) / WEIGHTS
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(at, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(at, os.SEEK_END)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_ino, after.st_mtime_ns) == (
        (before.st_size, before.st_ino, before.st_mtime_ns)
    )


def test_a_second_compute_writes_the_same_bytes_from_digests_of_the_first(
    family: Family, kept: str
) -> None:
    outputs = [family.folder / f"{number}.safetensors" for number in (0, 1, 2)]
    reports = [
        compute(family.base, family.post, str(output), digest_cache=place)
        for output, place in zip(outputs, ("off", kept, kept), strict=True)
    ]
    assert [report.recalled_bytes for report in reports] == [None, 0, nbytes(family.base, family.post)]
    assert len({output.read_bytes() for output in outputs}) == 1
    assert len({(report.base_fingerprint, report.post_fingerprint) for report in reports}) == 1


def test_a_second_apply_writes_the_same_files(family: Family, kept: str, snapshot: Snapshot) -> None:
    delta = str(family.folder / "d.safetensors")
    compute(family.base, family.post, delta)
    for wanted in (delta, Difference(family.base, family.post)):
        models = [family.new_base]
        models += [wanted.base, wanted.post] if isinstance(wanted, Difference) else []
        folders, recalled = [], []
        for place in ("off", kept, kept):
            output = family.folder / f"out-{len(folders)}"
            report = apply(family.new_base, [wanted], str(output), digest_cache=place, overwrite=True)
            folders.append(snapshot(output))
            recalled.append(report.recalled_bytes)
        assert folders[0] == folders[1] == folders[2]
        assert recalled[0] is None
        assert recalled[2] == nbytes(*models)


def test_a_post_that_is_restored_is_held_against_the_bytes_that_were_written(
    family: Family, kept: str
) -> None:
    for _ in range(2):
        difference = Difference(family.base, family.post)
        output = str(family.folder / "out")
        report = apply(family.base, [difference], output, digest_cache=kept, overwrite=True)
        assert report.case == SAME_BASE
    assert report.recalled_bytes == nbytes(family.base, family.post, family.base)
    assert fingerprint(output) == fingerprint(family.post)


def test_what_is_known_is_not_digested_again(
    family: Family, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = [str(family.folder / name) for name in ("first", "second")]
    compute(family.base, family.post, outputs[0], digest_cache=kept)
    monkeypatch.delattr(kept_digests, "digest_into")
    compute(family.base, family.post, outputs[1], digest_cache=kept)
    with pytest.raises(NameError):
        compute(family.base, family.new_base, str(family.folder / "third"), digest_cache=kept)


def test_a_fingerprint_that_is_known_needs_no_weights(
    family: Family, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = fingerprint(family.base, digest_cache=kept)
    reads: list[int] = []
    read = LocalReader.read_into

    def noted(self: LocalReader, offset: int, buffer: memoryview) -> None:
        reads.append(len(buffer))
        read(self, offset, buffer)

    monkeypatch.setattr(LocalReader, "read_into", noted)
    assert fingerprint(family.base, digest_cache=kept) == found
    again = sum(reads)
    assert fingerprint(family.base) == found
    assert sum(reads) - again == again + nbytes(family.base)


@pytest.mark.parametrize("at", [-1, -2000])
def test_an_edit_that_hides_behind_the_old_times_is_seen(family: Family, kept: str, at: int) -> None:
    before = fingerprint(family.base, digest_cache=kept)
    edit_in_place(family.base, at)
    after = fingerprint(family.base, digest_cache=kept)
    assert after == fingerprint(family.base) != before
    output = str(family.folder / "d.safetensors")
    report = compute(family.base, family.post, output, digest_cache=kept)
    assert report.base_fingerprint == str(after)


def test_a_file_that_was_just_written_is_not_kept(
    family: Family, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change right after it might fall into the same tick of the clock."""
    monkeypatch.setattr(store, "TICK_NS", 3600 * 10**9)
    for _ in range(2):
        output = str(family.folder / "d.safetensors")
        report = compute(family.base, family.post, output, digest_cache=kept, overwrite=True)
        assert report.recalled_bytes == 0
    assert not Path(kept).exists()


def test_a_copy_is_another_file(family: Family, kept: str) -> None:
    fingerprint(family.base, digest_cache=kept)
    copy = family.add("copy", family.state("base"))
    report = compute(copy, family.post, str(family.folder / "d.safetensors"), digest_cache=kept)
    assert report.recalled_bytes == 0


@pytest.mark.parametrize("damage", [b"", b"damaged", None])
def test_damaged_digests_are_made_again(family: Family, kept: str, damage: bytes | None) -> None:
    expected = fingerprint(family.base, digest_cache=kept)
    (entry,) = Path(kept).iterdir()
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]) if damage is None else damage)
    assert fingerprint(family.base, digest_cache=kept) == expected
    assert entry.read_bytes() == whole


def test_what_is_learnt_of_one_tensor_is_added_to_what_is_known_of_others(
    family: Family, kept: str
) -> None:
    with open_checkpoint(family.base) as model:
        names = list(model.tensors)
        for number, name in enumerate(names):
            before = KeptDigests(model, Path(kept))
            assert list(before.rows) == names[:number]
            before.keep(partial(dict, {name: np.full((1, 32), number + 1, np.uint8)}))
        rows = KeptDigests(model, Path(kept)).rows
    assert [int(rows[name][0, 31]) for name in names] == [number + 1 for number in range(len(names))]


def test_a_tensor_that_was_not_read_to_its_end_is_not_known(family: Family, kept: str) -> None:
    name, rows = "model.norm.weight", 3
    family.add("base", {name: torch.ones(rows << 19, dtype=torch.bfloat16)})
    with open_checkpoint(family.base) as model:
        for row in range(rows):
            found = np.ones((rows, 32), np.uint8)
            found[row] = 0
            KeptDigests(model, Path(kept)).keep(partial(dict, {name: found}))
            assert not KeptDigests(model, Path(kept)).rows
        KeptDigests(model, Path(kept)).keep(lambda: {name: np.ones((rows, 32), np.uint8)})
        assert KeptDigests(model, Path(kept)).rows[name].shape == (rows, 32)


def test_digests_that_no_run_asks_for_are_forgotten_when_others_are_kept(
    family: Family, kept: str
) -> None:
    fingerprint(family.base, digest_cache=kept)
    (old,) = Path(kept).iterdir()
    os.utime(old, (0, 0))
    fingerprint(family.post, digest_cache=kept)
    (new,) = Path(kept).iterdir()
    assert new != old


@pytest.mark.parametrize("side", ["base", "post"])
def test_a_file_that_changes_while_it_is_read_is_an_error_and_nothing_is_written(
    family: Family, kept: str, side: str
) -> None:
    output = family.folder / "d.safetensors"
    compute(family.base, family.post, str(family.folder / "first"), digest_cache=kept)

    @contextmanager
    def meddling(title: str, total_bytes: int) -> Iterator[Advance]:
        edit_in_place(str(family.folder / side))
        yield lambda count: None

    with pytest.raises(CorruptFile, match="was changed while it was read") as caught:
        compute(family.base, family.post, str(output), digest_cache=kept, progress=meddling)
    assert caught.value.where == str(family.folder / side / WEIGHTS)
    assert not output.exists()
    found = compute(family.base, family.post, str(output), digest_cache=kept)
    assert found.recalled_bytes == nbytes(str(family.folder / {"base": "post", "post": "base"}[side]))


def test_rows_in_another_order_are_made_on_the_way_and_digested_anew(family: Family, kept: str) -> None:
    tokens = [f"t{number}" for number in range(50)]
    for name, order in (("base", tokens[::-1]), ("post", tokens)):
        put(family.folder / name, words(order))
    reports = [
        compute(family.base, family.post, str(family.folder / f"{n}.safetensors"), digest_cache=place)
        for n, place in enumerate(("off", kept, kept))
    ]
    moved = family.state("base")["model.embed_tokens.weight"].nbytes
    assert len({report.fingerprint for report in reports}) == 1
    assert reports[2].recalled_bytes == nbytes(family.base, family.post) - moved


def test_a_run_that_signs_trusts_nobody_s_digests(family: Family, kept: str) -> None:
    key = make_pair(family.folder, "ed25519").private
    output = str(family.folder / "d.safetensors")
    for _ in range(2):
        report = compute(
            family.base, family.post, output, digest_cache=kept, sign_key=key, overwrite=True
        )
        assert report.recalled_bytes is None
    assert not Path(kept).exists()


def test_nothing_is_kept_unless_it_is_asked_for(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "TICK_NS", -(10**9))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    fingerprint(family.base)
    assert not (tmp_path / "cache" / "paramdelta" / "digests").exists()
    monkeypatch.setenv("PIPELINE_DIGEST_CACHE", "on")
    fingerprint(family.base)
    assert len([*(tmp_path / "cache" / "paramdelta" / "digests").iterdir()]) == 1
