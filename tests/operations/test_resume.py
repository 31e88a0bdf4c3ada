"""Begun again after a crash, a run goes on from what lies in the container, on whatever machine."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from clouds import Cloud
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from effort import times
from forks import Forks
from models import layered_state, write_model

import pipeline
from pipeline import Difference, apply, combine, compute, convert, verify
from pipeline.engine import journal, schedule
from pipeline.errors import StorageError
from pipeline.storage.azure import writing
from pipeline.storage.azure.writing import AzureWriter
from pipeline.storage.local.store import LocalReader

MIB = 1 << 20
KILLS = times(2, 25)  # of each command
SIZE = 6 * MIB  # of a model, in blocks of a MiB
LATE = 3 * MIB  # staged before the plug is pulled on a compute, of 4.5
SMALL = MIB // 8  # more than the header and the small files take

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base and a post, and their delta."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("base", "post")):
        write_model(folder / name, layered_state(6, MIB, seed))
    compute(str(folder / "base"), str(folder / "post"), str(folder / "delta.safetensors"))
    return folder


@pytest.fixture(autouse=True)
def small_blocks_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a MiB, so that small models have several, one after the other, each with its journal."""
    monkeypatch.setattr(schedule, "REMOTE_WORKERS", 1)
    monkeypatch.setattr(writing, "BLOCK_BYTES", MIB)
    monkeypatch.setattr(journal, "EVERY_S", 0.0)
    monkeypatch.setattr(journal, "_COST", 0)


def runs(models: Path, output: str, **options: Any) -> dict[str, Run]:
    """Each way to write to `output`, one block after the other."""
    options = {"workers": 1, **options}
    base, post, delta = (str(models / name) for name in ("base", "post", "delta.safetensors"))
    return {
        "compute": lambda **more: compute(base, post, output, **options, **more),
        "compute plain": lambda **more: compute(base, post, output, codec="none", **options, **more),
        "combine": lambda **more: combine([(delta, 0.5)], output, **options, **more),
        "convert": lambda **more: convert(delta, output, codec="none", **options, **more),
        "apply": lambda **more: apply(base, [(delta, 0.5)], output, **options, **more),
        "fused": lambda **more: apply(base, [(Difference(base, post), 0.5)], output, **options, **more),
    }


class Meter:
    """Counts what is staged and what is read; stages fail after `most` bytes."""

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self.staged = self.read = 0


@contextmanager
def metered(most: int | None = None) -> Iterator[Meter]:
    meter = Meter(most)
    stage, read_into = AzureWriter._stage, LocalReader.read_into

    def staging(self: AzureWriter, block: str, view: memoryview, digest: bytes) -> None:
        if meter.most is not None and meter.staged >= meter.most:
            raise StorageError("the plug was pulled")
        stage(self, block, view, digest)
        if not self._name.endswith(journal.SUFFIX):
            meter.staged += len(view)

    def reading(self: LocalReader, offset: int, buffer: memoryview) -> None:
        read_into(self, offset, buffer)
        meter.read += len(buffer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AzureWriter, "_stage", staging)
        patch.setattr(LocalReader, "read_into", reading)
        yield meter


def late(whole: Meter) -> int:
    """When to pull the plug on a run like that one."""
    return whole.staged * 2 // 3


def content(cloud: Cloud, name: str) -> dict[str, bytes]:
    """The blobs that begin with `name`, but for the files that say where the result lies."""
    found = {
        blob.name.removeprefix(name): cloud.client.download_blob(blob.name).readall()
        for blob in cloud.client.list_blobs(name_starts_with=name)
    }
    return {
        key: data for key, data in found.items() if not key.endswith(("README.md", "paramdelta.json"))
    }


@pytest.mark.parametrize("what", ["compute", "compute plain", "combine", "convert", "apply", "fused"])
def test_a_second_run_does_only_the_rest(models: Path, cloud: Cloud, what: str) -> None:
    with metered() as whole:
        runs(models, f"{cloud.location}/whole")[what]()
    with metered(late(whole)) as first, pytest.raises(StorageError, match="plug"):
        runs(models, f"{cloud.location}/again")[what]()
    assert not [name for name in content(cloud, "again") if name != journal.SUFFIX]
    with metered() as second:
        runs(models, f"{cloud.location}/again")[what]()
    assert second.staged <= whole.staged - first.staged + SMALL
    assert second.read < 0.8 * whole.read
    assert content(cloud, "again") == content(cloud, "whole")


def test_shards_of_a_single_block_are_taken_up_too(
    models: Path, cloud: Cloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "BLOCK_BYTES", 2 * MIB)
    shard_size = MIB + MIB // 4
    base, delta = str(models / "base"), str(models / "delta.safetensors")

    def run(output: str) -> None:
        apply(base, [(delta, 0.5)], f"{cloud.location}/{output}", workers=1, shard_size=shard_size)

    with metered() as whole:
        run("whole")
    with metered(late(whole)) as first, pytest.raises(StorageError, match="plug"):
        run("again")
    with metered() as second:
        run("again")
    last = shard_size  # of the last one staged, the journal does not know yet
    assert second.staged <= whole.staged - first.staged + last + SMALL
    assert second.read < 0.8 * whole.read
    assert content(cloud, "again") == content(cloud, "whole")


@pytest.mark.parametrize("what", ["compute", "apply"])
def test_killed_at_random_it_sends_next_to_nothing_twice(
    models: Path, cloud: Cloud, tmp_path: Path, what: str
) -> None:
    base, post, delta = (str(models / name) for name in ("base", "post", "delta.safetensors"))
    call, options = ["apply", base, [(delta, 0.5)]], {}
    if what == "compute":
        call, options = ["compute", base, post], {"codec": "none"}
    draw = random.Random(0)
    staged = sent_twice = kills = 0
    warm_up = ["compute", "--base", base, "--post", base, "--output", str(tmp_path / "warm")]
    values = {
        "pipeline.storage.azure.writing.BLOCK_BYTES": MIB,
        "pipeline.engine.schedule.REMOTE_WORKERS": 2,
    }
    with Forks(tmp_path, [warm_up], values=values) as forks:
        first = forks.call(*call, f"{cloud.location}/whole", **options)
        assert first.code == 0
        size = sum(blob.size for blob in cloud.client.list_blobs("whole"))
        for number in range(20 * KILLS):
            output = f"{number}.safetensors"
            moment = draw.uniform(0.2, 0.9) * first.seconds
            forks.call(*call, f"{cloud.location}/{output}", after=moment, **options)
            if content(cloud, output) == content(cloud, "whole"):
                continue  # it was too late
            before = sum(staged_bytes(cloud, output))
            if not before:
                continue  # it was too early
            with metered() as again:
                getattr(pipeline, call[0])(*call[1:], f"{cloud.location}/{output}", **options)
            staged += before
            sent_twice += max(0, again.staged - (size - before))
            assert content(cloud, output) == content(cloud, "whole")
            kills += 1
            if kills == KILLS:
                break
    print(f"{sent_twice} of {staged} bytes were sent twice")
    assert kills == KILLS
    assert sent_twice <= 0.2 * staged


def staged_bytes(cloud: Cloud, prefix: str) -> Iterator[int]:
    """The sizes of the blocks that lie uncommitted."""
    for each in cloud.client.list_blobs(prefix, include=["uncommittedblobs"]):
        _, blocks = cloud.client.get_blob_client(each.name).get_block_list("uncommitted")
        yield from (block.size for block in blocks)


def test_what_was_staged_is_not_sent_again_even_without_a_journal(models: Path, cloud: Cloud) -> None:
    with metered() as whole:
        runs(models, f"{cloud.location}/whole")["compute plain"]()
    with metered(late(whole)) as first, pytest.raises(StorageError):
        runs(models, f"{cloud.location}/x.safetensors")["compute plain"]()
    cloud.client.delete_blob(f"x.safetensors{journal.SUFFIX}")
    with metered() as second:
        runs(models, f"{cloud.location}/x.safetensors")["compute plain"]()
    assert second.staged <= whole.staged - first.staged + SMALL
    verify(f"{cloud.location}/x.safetensors", base=str(models / "base"), post=str(models / "post"))


def interrupted(models: Path, cloud: Cloud) -> bytes:
    """Compute into `x`, stopped late; returns the journal."""
    with metered(LATE), pytest.raises(StorageError):
        runs(models, f"{cloud.location}/x.safetensors")["compute"]()
    return cloud.client.download_blob(f"x.safetensors{journal.SUFFIX}").readall()


def is_whole(models: Path, cloud: Cloud) -> None:
    """`x` is what it should be, and nothing is left beside it."""
    verify(f"{cloud.location}/x.safetensors", base=str(models / "base"), post=str(models / "post"))
    assert [blob.name for blob in cloud.client.list_blobs()] == ["x.safetensors"]


def test_with_restart_a_run_does_all_again(models: Path, cloud: Cloud) -> None:
    interrupted(models, cloud)
    with metered() as meter:
        runs(models, f"{cloud.location}/x.safetensors", restart=True)["compute"]()
    assert meter.read > 2 * SIZE
    is_whole(models, cloud)


@pytest.mark.parametrize("damage", ["flipped", "cut", "other"])
def test_a_damaged_journal_is_as_good_as_none(models: Path, cloud: Cloud, damage: str) -> None:
    data = interrupted(models, cloud)
    spoiled = {
        "flipped": data[:100] + bytes([data[100] ^ 1]) + data[101:],
        "cut": data[: len(data) // 2],
        "other": b"PDJRNL01 and nothing that belongs to it",
    }[damage]
    cloud.client.upload_blob(f"x.safetensors{journal.SUFFIX}", spoiled, overwrite=True)
    with metered() as meter:
        runs(models, f"{cloud.location}/x.safetensors")["compute"]()
    assert meter.read > 2 * SIZE
    is_whole(models, cloud)


def test_a_changed_input_is_read_again(models: Path, cloud: Cloud) -> None:
    interrupted(models, cloud)
    weights = models / "post" / "model.safetensors"
    weights.write_bytes(weights.read_bytes())  # as far as one can see
    with metered() as meter:
        runs(models, f"{cloud.location}/x.safetensors")["compute"]()
    assert meter.read > 2 * SIZE
    is_whole(models, cloud)


def test_blocks_that_are_gone_are_written_again(
    models: Path, cloud: Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    interrupted(models, cloud)
    cloud.client.upload_blob("x.safetensors", b"", overwrite=True)  # a commit discards what is staged
    cloud.client.delete_blob("x.safetensors")
    with caplog.at_level(logging.WARNING):
        runs(models, f"{cloud.location}/x.safetensors")["compute"]()
    assert "beginning again" in caplog.text
    is_whole(models, cloud)


def test_a_run_that_signs_trusts_no_journal(models: Path, cloud: Cloud, tmp_path: Path) -> None:
    interrupted(models, cloud)
    key = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (tmp_path / "key.pem").write_bytes(key)
    with metered() as meter:
        runs(models, f"{cloud.location}/x.safetensors", sign_key=str(tmp_path / "key.pem"))["compute"]()
    assert meter.read > 2 * SIZE
    verify(f"{cloud.location}/x.safetensors")
