"""Signatures: whose a delta or a model is, and that nothing else passes for it."""

from __future__ import annotations

import base64
import json
import shutil
import traceback
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from deltas.conftest import Made
from deltas.surgery import put_together, take_apart
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keys import MAKERS, UNKNOWN, Pair, make_pair

from pipeline import apply, combine, compute, convert, verify
from pipeline.deltas.signing import MAX_SIGNATURE_BYTES, Signer, Verifier, key_id
from pipeline.errors import (
    BadSignature,
    CorruptFile,
    NotFound,
    OutputExists,
    PipelineError,
    Unsigned,
    UsageError,
)
from pipeline.tensors.fingerprint import digest_bytes

SOMETHING = digest_bytes(b"a manifest")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """A pair of each kind, and another of Ed25519."""
    folder = tmp_path_factory.mktemp("keys")
    found = {kind: make_pair(folder, kind) for kind in MAKERS}
    return {**found, "other": make_pair(folder, "ed25519", name="other")}


@pytest.fixture
def pair(pairs: dict[str, Pair]) -> Pair:
    return pairs["ed25519"]


@pytest.fixture(scope="module")
def signed_once(
    forms: dict[str, Made], pairs: dict[str, Pair], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A signed delta."""
    path = tmp_path_factory.mktemp("signed") / "d.safetensors"
    made = forms["rans"]
    compute(str(made.base), str(made.post), str(path), sign_key=pairs["ed25519"].private)
    return path


@pytest.fixture
def signed(signed_once: Path, tmp_path: Path) -> Path:
    """A copy of the signed delta, with its signature beside it."""
    for path in (signed_once, beside(signed_once)):
        shutil.copy(path, tmp_path)
    return tmp_path / signed_once.name


def beside(path: Path) -> Path:
    return path.with_name(f"{path.name}.sig")


def checked(path: Path, pair: Pair, **options: Any) -> str | None:
    return verify(str(path), key=pair.public, workers=1, **options).signed_by


# -- the signature ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MAKERS)
def test_what_a_key_signs_its_public_key_and_its_certificate_verify(
    pairs: dict[str, Pair], kind: str
) -> None:
    pair = pairs[kind]
    signature = Signer.load(pair.private).sign("x.safetensors", SOMETHING)
    for path in (pair.public, pair.certificate):
        found = Verifier.load(path).verify(signature, SOMETHING, where="x")
        assert found == key_id(pair.key.public_key())


@pytest.mark.parametrize("kind", MAKERS)
def test_a_signature_is_a_bundle_around_a_statement_of_the_manifests_digest(
    pairs: dict[str, Pair], kind: str
) -> None:
    """Read and checked by the letter of DSSE, in-toto and sigstore, with no code of ours."""
    key = pairs[kind].key.public_key()
    bundle = json.loads(Signer.load(pairs[kind].private).sign("x.safetensors", SOMETHING))
    assert bundle["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    envelope = bundle["dsseEnvelope"]
    (signature,) = envelope["signatures"]
    assert signature["keyid"] == bundle["verificationMaterial"]["publicKey"]["hint"] == key_id(key)
    payload, sent = base64.b64decode(envelope["payload"]), base64.b64decode(signature["sig"])
    text = f"DSSEv1 28 application/vnd.in-toto+json {len(payload)} ".encode() + payload
    if isinstance(key, ed25519.Ed25519PublicKey):
        key.verify(sent, text)
    else:
        hash_ = {"p256": hashes.SHA256(), "p384": hashes.SHA384()}[kind]
        key.verify(sent, text, ec.ECDSA(hash_))
    statement = json.loads(payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["subject"] == [
        {"name": "x.safetensors", "digest": {"blake3": blake3(b"a manifest").hexdigest()}}
    ]
    assert statement["predicateType"] == "https://model_signing/signature/v1.0"


def test_another_key_another_content_and_none_at_all_are_refused(pairs: dict[str, Pair]) -> None:
    for kind in MAKERS:
        signature = Signer.load(pairs[kind].private).sign("x", SOMETHING)
        for other in pairs.keys() - {kind}:
            with pytest.raises(BadSignature, match="not made by the key"):
                Verifier.load(pairs[other].public).verify(signature, SOMETHING, where="x")
        ours = Verifier.load(pairs[kind].public)
        with pytest.raises(BadSignature, match="another content"):
            ours.verify(signature, digest_bytes(b"another"), where="x")
        with pytest.raises(Unsigned, match=r"expected x\.sig"):
            ours.verify(None, SOMETHING, where="x")


# -- keys ---------------------------------------------------------------------------------------


def test_a_private_key_may_have_a_password(tmp_path: Path) -> None:
    pair = make_pair(tmp_path, "p256", password="hush")
    signature = Signer.load(pair.private, "hush").sign("x", SOMETHING)
    assert Verifier.load(pair.public).verify(signature, SOMETHING, where="x")
    for password in (None, "", "wrong"):
        with pytest.raises(UsageError, match="PIPELINE_SIGN_PASSWORD"):
            Signer.load(pair.private, password)


def test_the_password_comes_from_the_environment(
    packed: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = make_pair(tmp_path, "ed25519", password="hush")
    delta = tmp_path / "d.safetensors"
    with pytest.raises(UsageError, match="PIPELINE_SIGN_PASSWORD"):
        convert(str(packed.delta), str(delta), codec="none", sign_key=pair.private)
    assert not delta.exists()
    monkeypatch.setenv("PIPELINE_SIGN_PASSWORD", "hush")
    convert(str(packed.delta), str(delta), codec="none", sign_key=pair.private)
    assert checked(delta, pair)


@pytest.mark.parametrize("kind", UNKNOWN)
def test_other_kinds_of_keys_are_refused(tmp_path: Path, kind: str) -> None:
    pair = make_pair(tmp_path, kind)
    for load, path in (
        (Signer.load, pair.private),
        (Verifier.load, pair.public),
        (Verifier.load, pair.certificate),
    ):
        with pytest.raises(UsageError, match="Ed25519, or ECDSA over P-256 or P-384"):
            load(path)


def test_what_is_no_key_is_refused(pair: Pair, tmp_path: Path) -> None:
    for content in (b"", b"hello", b"\xff\x00", Path(pair.private).read_bytes()[:60]):
        (tmp_path / "x.pem").write_bytes(content)
        for load in (Signer.load, Verifier.load):
            with pytest.raises(UsageError, match=r"x\.pem: is no \w+ key that we can read"):
                load(str(tmp_path / "x.pem"))
    for load in (Signer.load, Verifier.load):
        for path in (str(tmp_path / "none.pem"), str(tmp_path)):
            with pytest.raises(NotFound, match="can't be read"):
                load(path)
    with pytest.raises(UsageError, match="no public key"):
        Verifier.load(pair.private)
    with pytest.raises(UsageError, match="no private key"):
        Signer.load(pair.public)


def test_no_error_shows_anything_of_a_private_key(pair: Pair, tmp_path: Path) -> None:
    """Not even to those who ask for the traceback, or give the key itself for its path."""
    text = Path(pair.private).read_text()
    secret = text.splitlines()[1]
    (tmp_path / "cut.pem").write_text(text.replace(secret[-8:], ""))
    locked = make_pair(tmp_path, "p384", password="hush-canary")
    for load, arguments in (
        (Signer.load, (text,)),
        (Verifier.load, (text,)),
        (Signer.load, (text.replace("\n", " "),)),
        (Signer.load, (str(tmp_path / "cut.pem"),)),
        (Verifier.load, (pair.private,)),
        (Signer.load, (locked.private, "wrong-canary")),
        (Signer.load, (pair.private, "needless-canary")),
    ):
        with pytest.raises(UsageError) as error:
            load(*arguments)
        shown = "".join(traceback.format_exception(error.value)) + repr(error.value.__dict__)
        assert secret[:20] not in shown and "canary" not in shown
    assert secret[:20] not in repr(Signer.load(pair.private))


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


def test_combinations_are_signed(signed: Path, pair: Pair, tmp_path: Path) -> None:
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


# -- hostile bundles ----------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PATHS = [
    (), ("dsseEnvelope",), ("dsseEnvelope", "payload"), ("dsseEnvelope", "payloadType"),
    ("dsseEnvelope", "signatures"), ("dsseEnvelope", "signatures", 0),
    ("dsseEnvelope", "signatures", 0, "sig"),
]  # fmt: skip


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(PATHS), value=JSON)
def test_whatever_a_bundle_says_it_is_a_bad_signature(pair: Pair, path: Any, value: Any) -> None:
    bundle = json.loads(Signer.load(pair.private).sign("x", SOMETHING))
    if path:
        inner = bundle
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = value
    with pytest.raises(BadSignature):
        text = json.dumps(bundle if path else value).encode()
        Verifier.load(pair.public).verify(text, SOMETHING, where="x")


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=JSON, part=st.sampled_from(["_type", "predicateType", "subject", None]))
def test_whatever_was_signed_it_is_no_statement_of_this_delta(
    pair: Pair, value: Any, part: str | None
) -> None:
    """Signed by the right key, but something else."""
    bundle = json.loads(Signer.load(pair.private).sign("x", SOMETHING))
    envelope = bundle["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))
    payload = json.dumps({**statement, part: value} if part else value).encode()
    text = f"DSSEv1 28 {envelope['payloadType']} {len(payload)} ".encode() + payload
    envelope["payload"] = base64.b64encode(payload).decode()
    envelope["signatures"][0]["sig"] = base64.b64encode(pair.key.sign(text)).decode()
    with pytest.raises(BadSignature):
        Verifier.load(pair.public).verify(json.dumps(bundle).encode(), SOMETHING, where="x")


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"[" * 100_000, b"null", b'{"dsseEnvelope": 3}', b"\x00" * 9], ids=len
)
def test_what_is_no_bundle_is_a_bad_signature(pair: Pair, text: bytes) -> None:
    with pytest.raises(BadSignature, match="can't be read"):
        Verifier.load(pair.public).verify(text, SOMETHING, where="x")


def test_a_flipped_bit_anywhere_in_what_counts_is_a_bad_signature(pairs: dict[str, Pair]) -> None:
    """In payload and signature, that is: the hints beside them are for people."""
    for kind in MAKERS:
        bundle = json.loads(Signer.load(pairs[kind].private).sign("x", SOMETHING))
        envelope, verifier = bundle["dsseEnvelope"], Verifier.load(pairs[kind].public)
        for holder, name in ((envelope, "payload"), (envelope["signatures"][0], "sig")):
            data = base64.b64decode(holder[name])
            for at in range(len(data)):
                changed = data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :]
                holder[name] = base64.b64encode(changed).decode()
                with pytest.raises(PipelineError):
                    verifier.verify(json.dumps(bundle).encode(), SOMETHING, where="x")
            holder[name] = base64.b64encode(data).decode()
        assert verifier.verify(json.dumps(bundle).encode(), SOMETHING, where="x")
