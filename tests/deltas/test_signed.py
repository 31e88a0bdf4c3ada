"""Signed deltas and models: refused before anything is written, if not signed as was asked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from deltas.conftest import Made, beside, checked
from deltas.surgery import put_together, take_apart
from keys import Pair, make_pair

from pipeline import apply, combine, compute, convert, verify
from pipeline.deltas.signing import MAX_SIGNATURE_BYTES, key_id
from pipeline.errors import (
    BadSignature,
    CorruptFile,
    NotFound,
    OutputExists,
    Unsigned,
    UsageError,
)

# -- deltas -------------------------------------------------------------------------------------


def test_a_signed_delta_is_verified_and_applied(
    signed: Path, pair: Pair, made: Made, tmp_path: Path
) -> None:
    assert checked(signed, pair, require_signature=True) == key_id(pair.key.public_key())
    assert verify(str(signed), key=pair.certificate).signed_by
    assert verify(str(signed)).signed_by is None  # nobody asked
    apply(str(made.base), [str(signed)], str(tmp_path / "out"), key=pair.public)


def test_a_signature_for_nobody_asked_may_not_be_required(signed: Path, made: Made) -> None:
    for run in (
        lambda: verify(str(signed), require_signature=True),
        lambda: apply(str(made.base), [str(signed)], "./out", require_signature=True),
    ):
        with pytest.raises(UsageError, match="--key"):
            run()


@pytest.mark.parametrize("damage", ["unsigned", "other key", "swapped", "forged", "empty", "long"])
def test_a_delta_that_is_not_signed_as_asked_is_refused_before_anything_is_written(
    signed: Path, pair: Pair, pairs: dict[str, Pair], packed: Made, tmp_path: Path, damage: str
) -> None:
    key, kind = pair.public, BadSignature
    if damage == "unsigned":
        beside(signed).unlink()
        kind = Unsigned
    elif damage == "other key":
        key = pairs["other"].public
    elif damage == "swapped":  # the same key's, for another delta
        other = str(tmp_path / "e.safetensors")
        compute(str(packed.base), str(packed.base), other, sign_key=pair.private)
        shutil.copy(f"{other}.sig", beside(signed))
    elif damage == "forged":  # all digests right, but the signed one
        parts = take_apart(signed)
        parts.put_manifest({**parts.manifest, "tool": "other"})
        put_together(signed, parts)
    else:
        size = {"empty": 0, "long": MAX_SIGNATURE_BYTES + 1}[damage]
        beside(signed).write_bytes(bytes(size))
    before = {path.name for path in tmp_path.iterdir()}
    for run in (
        lambda: verify(str(signed), key=key),
        lambda: apply(str(packed.base), [str(signed)], str(tmp_path / "out"), key=key),
        lambda: apply(str(packed.base), [str(signed)], str(tmp_path / "out"), key=key, dry_run=True),
    ):
        with pytest.raises(kind, match=r"d\.safetensors") as error:
            run()
        assert error.value.exit_code == {Unsigned: 8, BadSignature: 9}[kind]
    assert {path.name for path in tmp_path.iterdir()} == before


def test_every_delta_of_a_sum_must_be_signed(
    signed: Path, pair: Pair, packed: Made, tmp_path: Path
) -> None:
    deltas = [(str(signed), 0.5), (str(packed.delta), 0.5)]
    with pytest.raises(Unsigned, match=str(packed.delta)):
        apply(str(packed.base), deltas, str(tmp_path / "out"), key=pair.public)
    assert not (tmp_path / "out").exists()


def test_damage_below_the_signed_digest_is_still_damage(signed: Path, pair: Pair) -> None:
    data = bytearray(signed.read_bytes())
    data[len(data) // 2] ^= 1
    signed.write_bytes(data)
    with pytest.raises(CorruptFile):
        verify(str(signed), key=pair.public)


def test_a_signature_stays_with_its_form_and_is_made_anew(
    signed: Path, pair: Pair, pairs: dict[str, Pair], tmp_path: Path
) -> None:
    plain = tmp_path / "plain.safetensors"
    convert(str(signed), str(plain), codec="none")
    assert not beside(plain).exists()
    shutil.copy(beside(signed), beside(plain))
    with pytest.raises(BadSignature, match="another content"):
        verify(str(plain), key=pair.public)
    convert(str(signed), str(plain), codec="none", overwrite=True, sign_key=pairs["p256"].private)
    assert checked(plain, pairs["p256"])


def test_combinations_are_signed_as_deltas_are(signed: Path, pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "sum.safetensors"
    combine([(str(signed), 0.5)], str(path), sign_key=pair.private)
    assert checked(path, pair)


def test_a_signature_is_not_replaced_unless_asked_to(
    signed: Path, pair: Pair, packed: Made, tmp_path: Path
) -> None:
    """A delta that was taken away may have left its signature."""
    signed.unlink()
    arguments = str(packed.base), str(packed.post), str(signed)
    with pytest.raises(OutputExists, match=r"\.sig: already exists"):
        compute(*arguments, sign_key=pair.private)
    compute(*arguments, sign_key=pair.private, overwrite=True)
    assert checked(signed, pair)


def test_a_dry_run_signs_nothing_and_finds_a_key_that_is_none(packed: Made, tmp_path: Path) -> None:
    arguments = str(packed.base), str(packed.post), str(tmp_path / "d.safetensors")
    with pytest.raises(NotFound):
        compute(*arguments, sign_key=str(tmp_path / "none.pem"), dry_run=True)
    pair = make_pair(tmp_path, "ed25519")
    before = sorted(tmp_path.iterdir())
    compute(*arguments, sign_key=pair.private, dry_run=True)
    assert sorted(tmp_path.iterdir()) == before


# -- models -------------------------------------------------------------------------------------


def test_a_model_is_signed_by_its_provenance(
    packed: Made, pair: Pair, pairs: dict[str, Pair], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = apply(str(packed.base), [str(packed.delta)], str(out), sign_key=pair.private)
    assert "paramdelta.json.sig" in report.files
    assert checked(out, pair, require_signature=True) == key_id(pair.key.public_key())
    with pytest.raises(BadSignature, match="not made by the key"):
        verify(str(out), key=pairs["other"].public)
    said = json.loads((out / "paramdelta.json").read_text())
    said["tool"], digest = "another", said.pop("digest")
    data = json.dumps({**said, "digest": "0" * 64}).encode()
    forged = data.replace(b"0" * 64, blake3(data).hexdigest().encode())
    assert digest.encode() not in forged
    (out / "paramdelta.json").write_bytes(forged)
    verify(str(out))
    with pytest.raises(BadSignature, match="another content"):
        verify(str(out), key=pair.public)
    (out / "paramdelta.json.sig").unlink()
    with pytest.raises(Unsigned):
        verify(str(out), key=pair.public)


def test_a_delta_and_a_model_in_a_container_are_signed_there(
    packed: Made, pair: Pair, azurite: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"az://{azurite.create_container('signed').container_name}"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string)
    delta = f"{place}/deltas/d.safetensors"
    compute(str(packed.base), str(packed.post), delta, sign_key=pair.private)
    apply(str(packed.base), [delta], f"{place}/out", key=pair.public, sign_key=pair.private)
    for location in (delta, f"{place}/out"):
        assert verify(location, key=pair.public).signed_by
