"""Damage anywhere in a delta is found before anything is published."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from deltas.surgery import PREFIX, put_together, ranges, take_apart
from models import read_model, same_bits

from pipeline import open_delta
from pipeline.errors import CorruptFile, PipelineError

REGIONS = [
    "model.embed_tokens.weight", "model.norm.weight", "carried.steps", "corrections", "index",
    "digests", "file.tokenizer.json", "file.generation_config.json", "manifest",
]  # fmt: skip


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def places(begin: int, end: int, count: int) -> list[tuple[int, int]]:
    """(byte, bit) spread over a range, its first and last bytes among them."""
    step = max(1, (end - begin - 1) // (count - 1))
    return [(at, at % 8) for at in {*range(begin, end, step), end - 1}]


@pytest.mark.parametrize("region", REGIONS)
def test_a_flipped_bit_is_found_and_nothing_is_published(made, tmp_path, region):
    where = ranges(made.delta)
    begin, end = where.get(region) or where[PREFIX + region]
    data = made.delta.read_bytes()
    path, out = tmp_path / "damaged.safetensors", tmp_path / "out"
    for at, bit in places(begin, end, 12):
        path.write_bytes(flipped(data, at, bit))
        with pytest.raises(PipelineError):
            made.apply(out, path)
        assert [file.name for file in tmp_path.iterdir()] == [path.name], (at, bit)


def test_a_flipped_bit_in_the_header_is_found_or_means_nothing(made, tmp_path):
    """Nothing may come out but post itself: `"format":"pt"` is in nobody's digest."""
    begin, end = ranges(made.delta)["header"]
    data = made.delta.read_bytes()
    path = tmp_path / "damaged.safetensors"
    survived = 0
    for at in range(begin, end, 3):
        path.write_bytes(flipped(data, at, at % 7))
        try:
            open_delta(str(path)).close()
        except PipelineError:
            continue
        survived += 1
        out = tmp_path / f"out-{at}"
        made.apply(out, path)
        found = read_model(out)
        assert all(same_bits(found[name], tensor) for name, tensor in made.post_state.items())
    assert survived < 10


def test_a_delta_that_is_cut_off_anywhere_is_refused_when_it_is_opened(made, tmp_path):
    data = made.delta.read_bytes()
    path = tmp_path / "cut.safetensors"
    for size in [*range(0, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(CorruptFile):
            open_delta(str(path))


@pytest.mark.parametrize("name", ["corrections", "index", "digests", "manifest"])
def test_a_delta_without_one_of_its_tables_is_refused(made, tmp_path, name):
    parts = take_apart(made.delta)
    del parts.tensors[PREFIX + name]
    with pytest.raises(CorruptFile):
        open_delta(str(put_together(tmp_path / "x.safetensors", parts)))


def test_a_tensor_that_the_manifest_does_not_know_is_refused(made, tmp_path):
    parts = take_apart(made.delta)
    parts.tensors["stray"] = ("F32", [1], bytes(4))
    with pytest.raises(CorruptFile, match="stray"):
        open_delta(str(put_together(tmp_path / "x.safetensors", parts)))


def test_a_tensor_that_is_gone_is_refused(made, tmp_path):
    parts = take_apart(made.delta)
    del parts.tensors["model.norm.weight"]
    with pytest.raises(CorruptFile, match=r"model\.norm\.weight"):
        open_delta(str(put_together(tmp_path / "x.safetensors", parts)))


def test_a_companion_that_is_gone_or_added_is_refused(made, tmp_path):
    parts = take_apart(made.delta)
    parts.put("file.vocab.txt", b"more")
    with pytest.raises(CorruptFile, match="companions"):
        open_delta(str(put_together(tmp_path / "x.safetensors", parts)))
    parts = take_apart(made.delta)
    del parts.tensors[PREFIX + "file.tokenizer.json"]
    with pytest.raises(CorruptFile, match="companions"):
        open_delta(str(put_together(tmp_path / "x.safetensors", parts)))


def test_swapped_tensors_are_found(made, tmp_path):
    """Same dtype, same shape: only digests tell."""
    parts = take_apart(made.delta)
    left, right = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"
    one, two = parts.tensors[left], parts.tensors[right]
    parts.tensors[left], parts.tensors[right] = two, one
    path = put_together(tmp_path / "x.safetensors", parts)
    with pytest.raises(CorruptFile, match="digest"):
        made.apply(tmp_path / "out", path)


def test_the_base_may_not_change_unnoticed(made, tmp_path):
    """One bit more in the base: no longer post, and the report says so."""
    from models import write_model

    state = {name: tensor.clone() for name, tensor in made.base_state.items()}
    state["model.layers.1.mlp.up_proj.weight"].view(torch.int16)[-1, -1] ^= 1
    base = write_model(tmp_path / "base", state)
    report = made.__class__(base, made.post, made.delta, state, made.post_state).apply(tmp_path / "out")
    assert "another base" in report.case


def test_taking_a_delta_apart_and_putting_it_together_changes_nothing(made, tmp_path):
    """So that the refusals above are about what was changed."""
    path = put_together(tmp_path / "same.safetensors", take_apart(made.delta))
    made.apply(tmp_path / "out", Path(path))
    found = read_model(tmp_path / "out")
    assert all(same_bits(found[name], tensor) for name, tensor in made.post_state.items())
