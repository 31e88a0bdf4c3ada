"""Signatures: which keys make them, and that nothing but what was signed passes for it."""

from __future__ import annotations

import base64
import json
import traceback
from pathlib import Path

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from deltas.conftest import Made, checked
from keys import MAKERS, UNKNOWN, Pair, make_pair

from pipeline import convert
from pipeline.deltas.signing import Signer, Verifier, key_id
from pipeline.errors import (
    BadSignature,
    NotFound,
    Unsigned,
    UsageError,
)
from pipeline.tensors.fingerprint import digest_bytes

SOMETHING = digest_bytes(b"a manifest")


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
