"""Deltas and models in containers: the same bytes as locally, and nothing on the disk in between."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from clouds import Cloud
from models import cast, formula, near, read_model, same_bits
from operations.conftest import Family

import pipeline
from pipeline import apply, compute
from pipeline.deltas.format import CODECS
from pipeline.errors import NotFound, OutputExists, PipelineError
from pipeline.operations.apply import SAME_BASE

ROOT = Path(pipeline.__file__).resolve().parents[1]

# Runs compute or apply and prints, as JSON, every file that was opened for writing or made, and every
# request with the range that it asked for.
WATCHED = """
import json, os, sys
from pipeline import apply, compute

apply.__module__, compute.__module__  # imported before anything is watched
import azure.storage.blob
files, requests = [], []

def watch(event, found):
    if event == "open" and found[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        files.append(str(found[0]))
    elif event in ("os.mkdir", "tempfile.mkstemp", "tempfile.mkdtemp"):
        files.append(str(found[0]))
    elif event == "http.client.send":
        head = bytes(found[1][:2000]) if isinstance(found[1], bytes) else b""
        if head.startswith((b"GET", b"PUT")):
            lines = head.decode("latin-1").split("\\r\\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
            requests.append([lines[0], headers.get("x-ms-range"), headers.get("content-length")])

sys.addaudithook(watch)
what, *arguments = json.loads(sys.argv[1])
if what == "compute":
    compute(*arguments[:3], codec=arguments[3])
else:
    apply(arguments[0], [arguments[1]], arguments[2])
print(json.dumps([files, requests]))
"""


def watched(*arguments: str) -> tuple[list[str], list[tuple[str, str | None, str | None]]]:
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, json.dumps(arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    files, requests = json.loads(done.stdout)
    caches = (".pyc", ".nbi", ".nbc", "/dev/null")
    return [name for name in files if not name.endswith(caches)], requests


def is_restored(folder: Path, family: Family) -> bool:
    found, post = read_model(folder), family.state("post")
    return found.keys() == post.keys() and all(same_bits(found[name], post[name]) for name in post)


def test_a_delta_has_the_same_bytes_in_a_container_and_in_a_folder(
    family: Family, cloud: Cloud, tmp_path: Path
) -> None:
    compute(family.base, family.post, "deltas/d.safetensors", store=str(tmp_path / "store"))
    compute(family.base, family.post, "deltas/d.safetensors", store=cloud.location)
    compute(family.base, family.post, f"{cloud.location}/by/address.safetensors")
    local = (tmp_path / "store" / "deltas" / "d.safetensors").read_bytes()
    assert cloud.names() == ["by/address.safetensors", "deltas/d.safetensors"]
    assert cloud.read("deltas/d.safetensors") == local
    assert cloud.read("by/address.safetensors") == local


def test_the_environments_container_is_the_store(
    family: Family, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_CONTAINER_NAME", cloud.location.removeprefix("az://"))
    assert compute(family.base, family.post, "d.safetensors").output == "d.safetensors"
    assert cloud.names() == ["d.safetensors"]
    apply(family.base, ["d.safetensors"], str(tmp_path / "out"))
    assert is_restored(tmp_path / "out", family)


def test_models_are_read_from_and_written_to_containers(
    family: Family, cloud: Cloud, tmp_path: Path
) -> None:
    for name in ("base", "post"):
        cloud.upload(family.folder / name, f"models/{name}")
    address, _, token = cloud.url.partition("?")
    delta = f"{address}/deltas/d.safetensors?{token}"
    compute(f"{cloud.location}/models/base", f"{address}/models/post?{token}", delta)
    for number, prefix in enumerate((f"{cloud.location}/out-", f"{address}/out-")):
        suffix = f"?{token}" if number else ""
        report = apply(f"{cloud.location}/models/base", [delta], f"{prefix}{number}{suffix}")
        assert report.case == SAME_BASE
        assert is_restored(cloud.download(f"out-{number}", tmp_path / f"out-{number}"), family)
        assert token not in repr(report)
    for name in ("README.md", "paramdelta.json", "config.json"):
        assert token.encode() not in cloud.read(f"out-1/{name}")
    assert token.encode() not in cloud.read("deltas/d.safetensors")


def test_a_model_in_a_container_is_the_one_in_a_folder(
    family: Family, cloud: Cloud, tmp_path: Path
) -> None:
    compute(family.base, family.post, str(family.folder / "d"))
    arguments = (family.new_base, [str(family.folder / "d")])
    apply(*arguments, str(tmp_path / "local"), shard_size="4KB")
    apply(*arguments, f"{cloud.location}/out", shard_size="4KB")
    remote = cloud.download("out", tmp_path / "remote")
    for path in (tmp_path / "local").iterdir():
        assert (remote / path.name).read_bytes() == path.read_bytes()
    assert len(list(remote.iterdir())) == len(list((tmp_path / "local").iterdir()))


@pytest.fixture
def large(family: Family) -> tuple[str, str, torch.Tensor]:
    """Base and post of 24 MiB, whose difference packs badly; and post's tensor."""
    generator = torch.Generator().manual_seed(1)
    one, two = (torch.randn(12 << 20, generator=generator).to(torch.bfloat16) for _ in range(2))
    return family.add("large", {"w": one}), family.add("large-post", {"w": two}), two


@pytest.mark.parametrize("codec", CODECS)
def test_a_delta_is_written_by_blocks_with_no_file_in_between(
    large: tuple[str, str, torch.Tensor], cloud: Cloud, codec: str
) -> None:
    files, requests = watched("compute", *large[:2], f"{cloud.location}/d.safetensors", codec)
    assert files == []
    sizes = [int(size or 0) for line, _, size in requests if "comp=block&" in line]
    assert len(sizes) >= 4
    assert max(sizes) <= 8 << 20


@pytest.mark.parametrize("codec", CODECS)
def test_a_delta_is_read_by_ranges_with_no_file_in_between(
    large: tuple[str, str, torch.Tensor], cloud: Cloud, tmp_path: Path, codec: str
) -> None:
    base, post, state = large
    compute(base, post, f"{cloud.location}/d.safetensors", codec=codec)
    out = tmp_path / "out"
    files, requests = watched("apply", base, f"{cloud.location}/d.safetensors", str(out))
    assert [name for name in files if ".out.partial-" not in name and name != str(tmp_path)] == []
    gets = [(line, asked) for line, asked, _ in requests if "/d.safetensors" in line]
    assert len(gets) >= 4
    for _, asked in gets:
        assert asked is not None
        first, _, last = asked.removeprefix("bytes=").partition("-")
        assert int(last) - int(first) < 8 << 20
    assert same_bits(read_model(out)["w"], state)


def test_what_is_taken_in_a_container_is_refused_and_kept(family: Family, cloud: Cloud) -> None:
    delta = f"{cloud.location}/d.safetensors"
    compute(family.base, family.post, delta)
    apply(family.base, [delta], f"{cloud.location}/out")
    before = {name: cloud.read(name) for name in cloud.names()}
    for dry_run in (False, True):
        with pytest.raises(OutputExists):
            compute(family.base, family.new_base, delta, dry_run=dry_run)
        with pytest.raises(OutputExists):
            apply(family.new_base, [delta], f"{cloud.location}/out", dry_run=dry_run)
    assert {name: cloud.read(name) for name in cloud.names()} == before


def test_an_overwritten_model_in_a_container_is_the_new_one(
    family: Family, cloud: Cloud, tmp_path: Path
) -> None:
    """Also for a reader that looks for an index first: the old one must be gone."""
    delta = f"{cloud.location}/d.safetensors"
    compute(family.base, family.post, delta)
    apply(family.new_base, [delta], f"{cloud.location}/out", shard_size="4KB")
    apply(family.base, [delta], f"{cloud.location}/out", overwrite=True)
    again = str(tmp_path / "again.safetensors")
    report = compute(family.base, f"{cloud.location}/out", again)
    expected = compute(family.base, family.post, again, overwrite=True)
    assert report.post_fingerprint == expected.post_fingerprint
    assert is_restored(cloud.download("out", tmp_path / "out"), family)


def test_a_damaged_delta_in_a_container_publishes_nothing(
    family: Family, cloud: Cloud, tmp_path: Path
) -> None:
    delta = f"{cloud.location}/d.safetensors"
    compute(family.base, family.post, delta)
    data = bytearray(cloud.read("d.safetensors"))
    data[len(data) // 3] ^= 1
    cloud.client.upload_blob("d.safetensors", bytes(data), overwrite=True)
    for output in (f"{cloud.location}/out", str(tmp_path / "out")):
        with pytest.raises(PipelineError, match=r"d\.safetensors"):
            apply(family.base, [delta], output)
    assert cloud.names() == ["d.safetensors"]
    assert not (tmp_path / "out").exists()


def test_a_delta_that_is_replaced_while_it_is_read_publishes_nothing_mixed(
    family: Family, cloud: Cloud, tmp_path: Path
) -> None:
    from pipeline.deltas.delta import open_delta

    delta = f"{cloud.location}/d.safetensors"
    compute(family.base, family.post, delta)
    with open_delta(delta) as opened:
        compute(family.base, family.new_base, delta, overwrite=True)
        stored = next(iter(opened.tensors.values()))
        with pytest.raises(PipelineError, match="changed"):
            opened.reader.read_into(stored.offset, memoryview(bytearray(16)))


def test_a_missing_container_or_delta_is_named(family: Family, cloud: Cloud, tmp_path: Path) -> None:
    for delta in ("az://no-such-container/d.safetensors", f"{cloud.location}/none.safetensors"):
        with pytest.raises(NotFound) as error:
            apply(family.base, [delta], str(tmp_path / "out"))
        assert delta.removeprefix("az://") in str(error.value)
    with pytest.raises(NotFound, match="no such container"):
        compute(family.base, family.post, "az://no-such-container/d.safetensors")


def test_a_grown_vocabulary_travels_through_a_container(
    family: Family, cloud: Cloud, tmp_path: Path
) -> None:
    base, new = family.state("base"), family.state("new-base")
    post = cast(near({name: tensor.float() for name, tensor in base.items()}, 5, vocab=71))
    family.add("post", post)
    compute(family.base, family.post, f"{cloud.location}/d.safetensors")
    apply(family.new_base, [f"{cloud.location}/d.safetensors"], str(tmp_path / "out"))
    found = read_model(tmp_path / "out")
    for name in new:
        assert same_bits(found[name], formula(new[name], (1.0, post[name], base[name])))
