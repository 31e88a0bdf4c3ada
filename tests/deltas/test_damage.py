"""Damage anywhere in a delta is found before anything is published. FLIPS=1000 tries more places."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from deltas.conftest import Made
from deltas.surgery import PREFIX, SEAL, flipped, put_together, ranges, take_apart
from effort import times
from models import cast, near, random_state, read_model, same_bits, write_model

from pipeline import apply, compute, open_delta, verify
from pipeline.errors import CorruptFile, PipelineError

REGIONS = {
    "none": ["model.embed_tokens.weight", "model.norm.weight", "carried.steps", "corrections"],
    "rans": ["packed"],
}
FLIPS = times(50, 1000)  # of each form
SHARED_REGIONS = ["index", "digests", "file.tokenizer.json", "file.generation_config.json", "manifest"]


def places(begin: int, end: int, count: int) -> list[tuple[int, int]]:
    """(byte, bit) spread over a range, its first and last bytes among them."""
    step = max(1, (end - begin - 1) // (count - 1))
    return [(at, at % 8) for at in {*range(begin, end, step), end - 1}]


def regions(made: Made) -> list[str]:
    return [*REGIONS[made.codec], *SHARED_REGIONS]


def refuses(made: Made, path: Path) -> None:
    """That neither verify nor apply takes the delta at `path`, and nothing lies beside it then."""
    for attempt in (lambda: verify(str(path), workers=1), lambda: made.apply(path.parent / "out", path)):
        with pytest.raises(PipelineError):
            attempt()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_flipped_bit_is_found_and_nothing_is_published(made, tmp_path):
    data, where = made.delta.read_bytes(), ranges(made.delta)
    path = tmp_path / "damaged.safetensors"
    for region in regions(made):
        begin, end = where.get(region) or where[PREFIX + region]
        for at, bit in places(begin, end, 12):
            path.write_bytes(flipped(data, at, bit))
            refuses(made, path)


def test_a_bit_flipped_anywhere_is_found_and_nothing_is_published(made, tmp_path):
    """The header and its padding are not left out."""
    data = made.delta.read_bytes()
    path = tmp_path / "damaged.safetensors"
    for place in np.random.default_rng(1).choice(8 * len(data), FLIPS, replace=False).tolist():
        path.write_bytes(flipped(data, *divmod(place, 8)))
        refuses(made, path)


def test_a_flipped_bit_in_the_header_is_found_when_the_delta_is_opened(made, tmp_path):
    begin, end = ranges(made.delta)["header"]
    data = made.delta.read_bytes()
    path = tmp_path / "damaged.safetensors"
    for at in range(begin, end, 3):
        path.write_bytes(flipped(data, at, at % 7))
        with pytest.raises(PipelineError):
            open_delta(str(path))


@pytest.mark.parametrize("digest", [None, "", "0" * 64, "\ud800" * 64, "é" * 64, "ab" * 32])
def test_a_header_whose_digest_is_another_is_refused(made, tmp_path, digest):
    parts = take_apart(made.delta)
    del parts.metadata[SEAL]
    parts.metadata |= {} if digest is None else {SEAL: digest}
    with pytest.raises(CorruptFile, match=r"header (does not match its digest|is not JSON)"):
        open_delta(str(put_together(tmp_path / "x.safetensors", parts, sealed=False)))


def test_a_delta_that_is_cut_off_anywhere_is_refused_when_it_is_opened(made, tmp_path):
    data = made.delta.read_bytes()
    path = tmp_path / "cut.safetensors"
    for size in [*range(0, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(CorruptFile):
            open_delta(str(path))


def test_a_delta_without_one_of_its_tables_is_refused(made, tmp_path):
    for name in ("packed" if made.codec == "rans" else "corrections", "index", "digests", "manifest"):
        parts = take_apart(made.delta)
        del parts.tensors[PREFIX + name]
        with pytest.raises(CorruptFile):
            open_delta(str(put_together(tmp_path / "x.safetensors", parts)))


@pytest.mark.parametrize("name", ["stray", "__paramdelta__.stray", "__paramdelta__.carried.stray"])
def test_a_tensor_that_the_manifest_does_not_know_is_refused(made, tmp_path, name):
    parts = take_apart(made.delta)
    parts.tensors[name] = ("F32", [1], bytes(4))
    with pytest.raises(CorruptFile, match=name):
        open_delta(str(put_together(tmp_path / "x.safetensors", parts)))


def test_a_tensor_that_is_gone_is_refused(plain, tmp_path):
    parts = take_apart(plain.delta)
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


LEFT, RIGHT = "model.layers.0.mlp.up_proj.weight", "model.layers.1.mlp.up_proj.weight"


def test_swapped_tensors_are_found(plain, tmp_path):
    """Same dtype, same shape: only digests tell."""
    parts = take_apart(plain.delta)
    parts.tensors[LEFT], parts.tensors[RIGHT] = parts.tensors[RIGHT], parts.tensors[LEFT]
    path = put_together(tmp_path / "x.safetensors", parts)
    with pytest.raises(CorruptFile, match="digest"):
        plain.apply(tmp_path / "out", path)


def test_swapped_chunks_are_found(packed, tmp_path):
    """With the digests of their bytes in the file, and their places: those of their content tell."""
    parts = take_apart(packed.delta)
    index = np.frombuffer(parts.tensors[PREFIX + "index"][2], "<u8").astype(int)
    digests = np.frombuffer(parts.tensors[PREFIX + "digests"][2], np.uint8).reshape(-1, 4, 32).copy()
    data = parts.tensors[PREFIX + "packed"][2]
    chunks = [data[index[row] : index[row + 2]] for row in range(0, len(index) - 1, 2)]
    names = [record["name"] for record in parts.manifest["tensors"]]
    order = list(range(len(names)))  # each tensor of this delta is one chunk
    one, two = names.index(LEFT), names.index(RIGHT)
    order[one], order[two] = two, one
    sizes = np.diff(index).reshape(-1, 2)[order].ravel()
    digests[:, 3] = digests[order, 3]
    parts.put("index", np.concatenate(([0], np.cumsum(sizes))).astype("<u8").tobytes())
    parts.put("digests", digests.tobytes())
    parts.put("packed", b"".join(chunks[row] for row in order))
    path = put_together(tmp_path / "x.safetensors", parts)
    with pytest.raises(CorruptFile, match="digest"):
        packed.apply(tmp_path / "out", path)


@pytest.mark.parametrize("codec", REGIONS)
def test_digests_of_what_is_not_there_are_zeros(tmp_path, codec):
    """A chunk of rows that only post has says nothing of a base."""
    base = random_state(1, vocab=100)
    write_model(tmp_path / "base", cast(base))
    write_model(tmp_path / "post", cast(near(base, 2, vocab=40_000)))  # two chunks
    file = tmp_path / "d.safetensors"
    compute(str(tmp_path / "base"), str(tmp_path / "post"), str(file), codec=codec)
    parts = take_apart(file)
    digests = bytearray(parts.tensors[PREFIX + "digests"][2])
    at = (4 if codec == "rans" else 3) * 32  # the second chunk's, of the base
    assert digests[at : at + 32] == bytes(32)
    digests[at] ^= 1
    parts.put("digests", bytes(digests))
    with pytest.raises(CorruptFile, match="digests"):
        open_delta(str(put_together(file, parts)))


def test_a_companion_is_whole_in_every_bit(packed, tmp_path):
    """Also where zstd does not look: the fifth bit of its frame's descriptor is reserved."""
    parts = take_apart(packed.delta)
    name = "file.tokenizer.json"
    content = parts.tensors[PREFIX + name][2]
    assert blake3(content[32:]).digest() == content[:32]
    parts.put(name, flipped(content, 36, 4))
    with pytest.raises(CorruptFile, match="companion"):
        packed.apply(tmp_path / "out", put_together(tmp_path / "x.safetensors", parts))


def test_the_base_may_not_change_unnoticed(made, tmp_path):
    """One bit more in the base: no longer post, and the report says so."""
    state = {name: tensor.clone() for name, tensor in made.base_state.items()}
    state[RIGHT].view(torch.int16)[-1, -1] ^= 1
    base = write_model(tmp_path / "base", state)
    report = apply(str(base), [str(made.delta)], str(tmp_path / "out"))
    assert "another base" in report.case


def test_taking_a_delta_apart_and_putting_it_together_changes_nothing(made, tmp_path):
    """So that the refusals above are about what was changed."""
    path = put_together(tmp_path / "same.safetensors", take_apart(made.delta))
    made.apply(tmp_path / "out", Path(path))
    found = read_model(tmp_path / "out")
    assert all(same_bits(found[name], tensor) for name, tensor in made.post_state.items())
