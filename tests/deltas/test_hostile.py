"""A delta made to do harm, all its digests right: an error of ours, and nothing written elsewhere."""

from __future__ import annotations

import json
import random
import re
import shutil
from copy import deepcopy

import numpy as np
import pytest
import torch
from blake3 import blake3
from deltas.surgery import PREFIX, flipped, put_together, take_apart
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import write_model

from pipeline import combine, compute, convert, inspect, open_delta, verify
from pipeline.errors import CorruptFile, PipelineError

VALUES = st.sampled_from(
    [None, True, 0, -1, 3, 1 << 70, 0.5, float("inf"), float("nan"), "", "x", "BF16", "I64", "F64",
     "F8_E4M3", "0" * 64, "none", "rans", "\ud800", "__metadata__", PREFIX + "packed", [], [0], [-1],
     [1 << 70], [[]], {}, {"a": 1}, {"\ud800": float("inf")}]
)  # fmt: skip


def places(value, path=()):
    """Every place in a JSON value, as a path of keys."""
    yield path
    items = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in items:
        yield from places(inner, (*path, key))


def replaced(content, path, value):
    """A copy of `content` with `value` at `path`."""
    if not path:
        return value
    changed = deepcopy(content)
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return changed


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_manifest_says_is_an_error_of_ours_or_harmless(made, tmp_path, data):
    parts = take_apart(made.delta)
    path = data.draw(st.sampled_from(list(places(parts.manifest))))
    parts.put_manifest(replaced(parts.manifest, path, data.draw(VALUES)))
    file = put_together(tmp_path / "x.safetensors", parts)
    out, again = tmp_path / "out", tmp_path / "again"
    for use in (
        lambda: made.apply(out, file),
        lambda: verify(str(file), workers=1),
        lambda: convert(str(file), str(again), codec="none", workers=1),
        lambda: combine([(str(file), 0.5)], str(again), workers=1),
        lambda: inspect(str(file)),
    ):
        try:
            use()
        except PipelineError:
            assert [each.name for each in tmp_path.iterdir()] == ["x.safetensors"]
        shutil.rmtree(out, ignore_errors=True)
        again.unlink(missing_ok=True)
    assert [each.name for each in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("field", ["shape", "base_shape", "changed", "remainders", "exceptions"])
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 1 << 70, [float("inf")]], ids=repr)
def test_numbers_that_are_none_are_refused(made, tmp_path, field, value):
    parts = take_apart(made.delta)
    manifest = parts.manifest
    manifest["tensors"][0][field] = [value, value] if "shape" in field else value
    parts.put_manifest(manifest)
    file = put_together(tmp_path / "x.safetensors", parts)
    with pytest.raises(CorruptFile):
        made.apply(tmp_path / "out", file)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", [True, "x", [], [1], 0.5], ids=repr)
def test_a_config_that_is_none_is_refused(made, tmp_path, value):
    parts = take_apart(made.delta)
    parts.put_manifest({**parts.manifest, "post_config": value})
    with pytest.raises(CorruptFile, match="manifest"):
        open_delta(str(put_together(tmp_path / "x.safetensors", parts)))


@pytest.mark.parametrize(
    ("side", "dtype", "column"),
    [("base", "I16", 0), ("post", "F8_E4M3", 1), ("stored", "I16", 2), ("stored", "F8_E5M2", 2)],
)
def test_a_tensor_is_float_on_all_sides_or_on_none(plain, tmp_path, side, dtype, column):
    """With every digest recomputed, so that only the formats themselves can tell."""
    parts = take_apart(plain.delta)
    manifest = parts.manifest
    place = [record["name"] for record in manifest["tensors"]].index("model.norm.weight")
    record = manifest["tensors"][place]
    at = 96 * place + 32 * column  # each tensor of this delta is one chunk
    chunk = parts.tensors[PREFIX + "digests"][2][at : at + 32]
    head = f"paramdelta tensor 1\n{dtype}\n{record['shape'][0]}\n".encode()
    record |= {side: dtype, f"{side}_digest": blake3(head + chunk).hexdigest()}
    if side == "stored":
        parts.tensors[record["name"]] = (dtype, *parts.tensors[record["name"]][1:])
    parts.put_manifest(manifest)
    file = put_together(tmp_path / "x.safetensors", parts)
    with pytest.raises(CorruptFile):
        plain.apply(tmp_path / "out", file)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["__metadata__", PREFIX + "carried.w", PREFIX + "x", "\ud800"])
def test_a_tensor_whose_name_can_be_none_is_refused(made, tmp_path, name):
    parts = take_apart(made.delta)
    manifest = parts.manifest
    manifest["tensors"][0]["name"] = name
    parts.put_manifest(manifest)
    with pytest.raises(CorruptFile, match="manifest"):
        open_delta(str(put_together(tmp_path / "x.safetensors", parts)))


@pytest.mark.parametrize("codec", ["zip", "", None, 3, "RANS"])
def test_a_codec_that_nobody_knows_is_named(made, tmp_path, codec):
    parts = take_apart(made.delta)
    parts.put_manifest({**parts.manifest, "codec": codec})
    with pytest.raises(CorruptFile, match=f"codec {codec!r}.*use a newer one"):
        open_delta(str(put_together(tmp_path / "x.safetensors", parts)))


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"3", b"not json", b"\xff", b"[" * 100_000], ids=lambda t: repr(t[:9])
)
def test_a_manifest_that_is_none_is_refused(made, tmp_path, text):
    parts = take_apart(made.delta)
    parts.put_manifest(text)
    with pytest.raises(CorruptFile, match="manifest"):
        open_delta(str(put_together(tmp_path / "x.safetensors", parts)))


@pytest.mark.parametrize("place", ["header", "manifest"])
def test_a_delta_of_a_later_version_is_refused_with_the_version(made, tmp_path, place):
    parts = take_apart(made.delta)
    if place == "header":
        parts.metadata["paramdelta.version"] = "2"
    else:
        parts.put_manifest({**parts.manifest, "version": 2})
    with pytest.raises(CorruptFile, match="version 2"):
        open_delta(str(put_together(tmp_path / "x.safetensors", parts)))


@pytest.mark.parametrize(
    "name",
    ["../evil", "/tmp/evil", "a/../../evil", "", "..", "config.json", "README.md", "paramdelta.json",
     "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "modeling_evil.py"],
)  # fmt: skip
def test_only_companions_are_taken_for_companions(made, tmp_path, name):
    """A delta must not bring weights, code or a config under the guise of a tokenizer."""
    parts = take_apart(made.delta)
    manifest = parts.manifest
    content = b"evil"
    parts.put("file." + name, content)
    manifest["files"][name] = manifest["files"]["tokenizer.json"]
    parts.put_manifest(manifest)
    manifest_tensor = parts.tensors.pop(PREFIX + "manifest")
    parts.tensors[PREFIX + "manifest"] = manifest_tensor
    with pytest.raises(PipelineError):
        open_delta(str(put_together(tmp_path / "x.safetensors", parts)))


def test_an_index_that_is_not_in_order_is_refused(made, tmp_path):
    for number in range(3):
        parts = take_apart(made.delta)
        index = bytearray(parts.tensors[PREFIX + "index"][2])
        index[8 * number : 8 * number + 8] = (1 << 63).to_bytes(8, "little")
        parts.put("index", bytes(index))
        with pytest.raises(CorruptFile, match="index"):
            open_delta(str(put_together(tmp_path / "x.safetensors", parts)))


def test_a_chunk_that_was_forged_with_the_digest_of_its_bytes_is_refused(packed, tmp_path):
    """What the decoder makes of it is not what the manifest says, if it makes anything of it."""
    rng = random.Random(1)
    file = tmp_path / "x.safetensors"
    for _ in range(100):
        parts = take_apart(packed.delta)
        index = np.frombuffer(parts.tensors[PREFIX + "index"][2], "<u8").astype(int)
        digests = bytearray(parts.tensors[PREFIX + "digests"][2])
        data = parts.tensors[PREFIX + "packed"][2]
        row = rng.randrange(len(index) // 2)  # of a chunk: its values and its corrections
        begin, end = index[2 * row], index[2 * row + 2]
        data = flipped(data, rng.randrange(begin, end), rng.randrange(8))
        digests[128 * row + 96 : 128 * row + 128] = blake3(data[begin:end]).digest()
        parts.put("packed", data)
        parts.put("digests", bytes(digests))
        with pytest.raises(CorruptFile, match=re.escape(str(file))):
            verify(str(put_together(file, parts)), workers=1)


@pytest.mark.parametrize("name", ["index", "digests"])
def test_tables_of_another_size_are_refused(made, tmp_path, name):
    parts = take_apart(made.delta)
    parts.put(name, parts.tensors[PREFIX + name][2] + bytes(8))
    with pytest.raises(CorruptFile, match="tables"):
        open_delta(str(put_together(tmp_path / "x.safetensors", parts)))


# -- models made to do harm ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["index", "corrections", "digests", "manifest", "file.x", "carried.w"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)
def test_a_model_whose_tensors_bear_reserved_names_is_refused(tmp_path, name, dtype):
    """Else the delta would have two tensors of one name; and a delta would be taken for a model."""
    state = {"w": torch.ones(2, dtype=dtype), PREFIX + name: torch.ones(3, dtype=dtype)}
    for side in ("base", "post"):
        write_model(tmp_path / side, state)
    with pytest.raises(PipelineError, match="__paramdelta__"):
        compute(str(tmp_path / "base"), str(tmp_path / "post"), str(tmp_path / "d.safetensors"))
    assert not (tmp_path / "d.safetensors").exists()


def test_a_pickles_tensor_that_is_called_metadata_is_refused(tmp_path):
    torch.save({"__metadata__": torch.ones(2), "w": torch.ones(2)}, tmp_path / "model.pt")
    with pytest.raises(PipelineError, match="__metadata__"):
        compute(str(tmp_path / "model.pt"), str(tmp_path / "model.pt"), str(tmp_path / "d.safetensors"))
    assert not (tmp_path / "d.safetensors").exists()


def test_the_surgery_of_these_tests_is_sound(made, tmp_path):
    """A manifest that is written again as it was is accepted."""
    parts = take_apart(made.delta)
    parts.put_manifest(json.loads(json.dumps(parts.manifest)))
    made.apply(tmp_path / "out", put_together(tmp_path / "x.safetensors", parts))
    assert (tmp_path / "out" / "config.json").exists()
