"""verify: a whole delta is called so; a damaged one, or another's, is named and has an exit code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from blake3 import blake3
from clouds import Cloud
from deltas.surgery import PREFIX, flipped, put_together, ranges, take_apart
from models import cast, near, random_state
from operations.conftest import Family, Snapshot, delta_of

from pipeline import apply, combine, compute, verify
from pipeline.deltas.format import CODECS
from pipeline.errors import (
    CorruptFile,
    NotFound,
    OtherCheckpoint,
    UsageError,
)

NORM = "model.norm.weight"
DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@pytest.mark.parametrize("codec", CODECS)
def test_a_whole_delta_is_called_whole_and_nothing_is_written(
    family: Family, snapshot: Snapshot, codec: str
) -> None:
    made = compute(family.base, family.post, str(family.folder / "d"), codec=codec)
    before = snapshot(family.folder)
    found = verify(str(family.folder / "d"))
    assert (found.kind, found.location, found.tensors) == ("delta", str(family.folder / "d"), 8)
    assert found.fingerprint == made.fingerprint
    assert (found.base, found.post, found.restores_post, found.signed_by) == (None,) * 4
    assert snapshot(family.folder) == before


@pytest.mark.parametrize("codec", CODECS)
def test_damage_is_named_with_its_tensor(family: Family, codec: str) -> None:
    delta = Path(delta_of(family, codec=codec))
    begin, end = ranges(delta)[PREFIX + "packed" if codec == "rans" else NORM]
    at = end - 1 if codec == "none" else begin + 40
    delta.write_bytes(flipped(delta.read_bytes(), at, 3))
    with pytest.raises(CorruptFile, match=r"post\.safetensors: tensor 'model.* its digest") as error:
        verify(str(delta))
    assert error.value.exit_code == 6


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_post_is_restored_bit_for_bit_from_its_base(
    family: Family, dtype: torch.dtype, codec: str
) -> None:
    base = cast(random_state(4), dtype) | {"ids": torch.arange(50)}
    post = cast(near(random_state(4), 5, scale=0.03, vocab=57)) | {"ids": torch.arange(57) + 1}
    post[NORM][:3] = torch.tensor([torch.nan, -0.0, torch.inf])
    family.add("base", base)
    family.add("post", post)
    found = verify(delta_of(family, codec=codec), base=family.base, post=family.post)
    assert (found.base, found.post, found.restores_post) == (family.base, family.post, True)


def test_each_side_may_be_compared_alone(family: Family) -> None:
    delta = delta_of(family)
    assert verify(delta, base=family.base).restores_post is None
    assert verify(delta, post=family.post).post == family.post


def test_another_base_is_named_with_what_differs_and_how_much(family: Family) -> None:
    delta = delta_of(family)
    state = family.state("base")
    state[NORM] *= 1.5
    other = family.add("other", state)
    with pytest.raises(OtherCheckpoint) as error:
        verify(delta, base=other)
    text = str(error.value)
    assert error.value.exit_code == 7
    assert f"{other}: is not the base of {delta}, which was {family.base}" in text
    assert f"1 of 8 tensors differ, 12.5% of the chunks: {NORM}" in text
    assert "distance" not in text


@pytest.mark.parametrize("codec", CODECS)
def test_with_post_the_distance_of_another_base_is_told(family: Family, codec: str) -> None:
    base, other = family.state("base"), family.state("new-base")
    with pytest.raises(OtherCheckpoint, match=r"8 of 8 tensors differ, 100\.0% of the chunks") as error:
        verify(delta_of(family, codec=codec), base=family.new_base, post=family.post)
    told = re.search(r"relative distance (\S+):", str(error.value))
    assert told is not None
    away = sum(((other[n].double() - base[n].double()) ** 2).sum() for n in base)
    size = sum((base[n].double() ** 2).sum() for n in base)
    assert float(told[1]) == pytest.approx(float((away / size).sqrt()), rel=0.02)


def test_a_distance_that_is_no_number_is_not_told(family: Family) -> None:
    state = family.state("base")
    state[NORM][:2] = torch.tensor([torch.nan, torch.inf])
    with pytest.raises(OtherCheckpoint, match=r"12\.5% of the chunks: model\.norm"):
        verify(delta_of(family), base=family.add("other", state), post=family.post)


def test_another_post_is_named(family: Family) -> None:
    delta = delta_of(family)
    for base in (None, family.base):
        with pytest.raises(OtherCheckpoint, match=f"is not the post of .*, which was {family.post}"):
            verify(delta, base=base, post=family.new_base)


def test_a_checkpoint_of_other_names_formats_and_shapes_is_named_by_them(family: Family) -> None:
    state = family.state("base")
    state["model.embed_tokens.weight"] = state["model.embed_tokens.weight"][:40].clone()
    state["extra"] = state.pop(NORM)
    state["model.layers.0.input_layernorm.weight"] = state[
        "model.layers.0.input_layernorm.weight"
    ].float()
    other, delta = family.add("other", state), delta_of(family)
    for options in ({"base": other}, {"post": other}):
        with pytest.raises(OtherCheckpoint, match="4 of 8 tensors differ") as error:
            verify(delta, **options)
        for problem in (
            "model.embed_tokens.weight is 40 × 16 BF16, not 50 × 16 BF16",
            f"{NORM} is missing",
            "extra is not in the delta",
            "model.layers.0.input_layernorm.weight is 16 F32, not 16 BF16",
        ):
            assert problem in str(error.value)


def test_only_ten_tensors_are_named(family: Family) -> None:
    state = random_state(1, layers=9)
    for name in ("base", "post", "other"):
        family.add(name, cast(near(state, len(name))))
    with pytest.raises(OtherCheckpoint, match=r"29 of 29 tensors differ.*; and 19 more"):
        verify(delta_of(family), base=str(family.folder / "other"))


def test_a_delta_whose_digests_are_right_and_whose_numbers_are_not_does_not_restore_post(
    family: Family,
) -> None:
    """Whoever made it: this is what a digest can't tell, and adding can."""
    delta = Path(delta_of(family, codec="none"))
    parts = take_apart(delta)
    manifest = parts.manifest
    place = [record["name"] for record in manifest["tensors"]].index(NORM)
    dtype, shape, _ = parts.tensors[NORM]
    data = b"\x80\x3f" * shape[0]  # ones
    parts.tensors[NORM] = (dtype, shape, data)
    lost = _corrections(parts.tensors, place)
    chunk = blake3(data + lost).digest()
    digests = bytearray(parts.tensors[PREFIX + "digests"][2])
    digests[96 * place + 64 : 96 * place + 96] = chunk  # each tensor of this delta is one chunk
    parts.put("digests", bytes(digests))
    head = f"paramdelta tensor 1\nBF16\n{shape[0]}\n".encode()
    manifest["tensors"][place]["stored_digest"] = blake3(head + chunk).hexdigest()
    parts.put_manifest(manifest)
    put_together(delta, parts)
    verify(str(delta), base=family.base)
    with pytest.raises(OtherCheckpoint, match=f"1 of 8 tensors differ from what is restored: {NORM}"):
        verify(str(delta), base=family.base, post=family.post)


def _corrections(tensors: dict[str, tuple[str, list[int], bytes]], place: int) -> bytes:
    index = np.frombuffer(tensors[PREFIX + "index"][2], "<u8")
    return tensors[PREFIX + "corrections"][2][int(index[place]) : int(index[place + 1])]


def test_a_combination_is_whole_and_has_a_base_if_its_parts_share_one(family: Family) -> None:
    combined = str(family.folder / "c.safetensors")
    combine([(delta_of(family), 0.5)], combined)
    assert verify(combined, base=family.base).base == family.base
    with pytest.raises(UsageError, match="is a combination, which has no post"):
        verify(combined, base=family.base, post=family.post)
    state = near(family.state("base"), 4)
    family.add("base", cast(state))
    combine([(delta_of(family), 0.5), (combined, 1.0)], combined, overwrite=True)
    assert verify(combined).kind == "delta"
    with pytest.raises(UsageError, match="is a combination, which has no base"):
        verify(combined, base=family.base)


def test_a_delta_in_a_container_is_verified(family: Family, cloud: Cloud) -> None:
    made = compute(family.base, family.post, f"{cloud.location}/d.safetensors")
    assert verify(f"{cloud.location}/d.safetensors").fingerprint == made.fingerprint


def test_what_can_not_be_verified_is_said_so(family: Family, tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    apply(family.base, [delta_of(family)], out)
    for location, options, kind, text in (
        (f"{family.base}/model.safetensors", {}, UsageError, "not a delta"),
        (family.base, {}, UsageError, r"has no paramdelta\.json"),
        ("./none.safetensors", {}, NotFound, "none"),
        ("none.safetensors", {}, NotFound, "none"),
        ("./none", {}, UsageError, "paramdelta"),
        ("a b", {}, UsageError, "a b"),
        (out, {"base": family.base}, UsageError, "only a delta"),
        (out, {"post": family.post}, UsageError, "only a delta"),
        (out, {"require_signature": True}, UsageError, "--key"),
        (f"{family.base}/config.json", {}, CorruptFile, "config"),
    ):
        with pytest.raises(kind, match=text):
            verify(location, **options)
