"""Who made a delta or a model: a detached signature over the digest of its manifest.

A signature is a file of its own beside what it signs, `NAME.sig`, in the form that OpenSSF's
model-signing and sigstore use: a bundle (JSON) with a DSSE envelope around an in-toto statement. What is
signed is the manifest's BLAKE3 digest, and the manifest has the digests of everything else; so a file in
a container is signed and verified without a copy of it, and without a second look at its weights.

Sources: DSSE protocol 1.0 (secure-systems-lab/dsse), in-toto attestation statement v1, sigstore bundle
v0.3. Keys are Ed25519, or ECDSA over P-256 with SHA-256, or over P-384 with SHA-384, in PEM; to verify,
a public key or a certificate, which is trusted as it is.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import BadSignature, NotFound, Unsigned, UsageError
from pipeline.tensors.fingerprint import Digest

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import (
        ECDSA,
        EllipticCurvePrivateKey,
        EllipticCurvePublicKey,
    )
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    PrivateKey = Ed25519PrivateKey | EllipticCurvePrivateKey
    PublicKey = Ed25519PublicKey | EllipticCurvePublicKey

SUFFIX = ".sig"
MAX_SIGNATURE_BYTES = 1 << 20
_BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_PAYLOAD = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://model_signing/signature/v1.0"
_CURVES = ("secp256r1", "secp384r1")


@dataclass(frozen=True)
class Signer:
    """A private key that is ready to sign."""

    key: PrivateKey

    @classmethod
    def load(cls, path: str, password: str | None = None) -> Signer:
        """The private key in the PEM file at `path`. Raises NotFound and UsageError."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        data = _read(path)
        try:
            key = load_pem_private_key(data, password.encode() if password else None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise UsageError(
                "is no private key that we can read",
                where=path,
                hint="use an Ed25519 or ECDSA key in PEM, its password in PIPELINE_SIGN_PASSWORD",
            ) from error
        _require_known(key, path)
        return cls(key)  # type: ignore[arg-type]

    def sign(self, name: str, manifest: Digest) -> bytes:
        """The content of the signature file for what is called `name`."""
        statement = {
            "_type": _STATEMENT,
            "subject": [{"name": name, "digest": {"blake3": str(manifest)}}],
            "predicateType": _PREDICATE,
            "predicate": {
                "serialization": {"method": "paramdelta manifest", "hash_type": "blake3"},
                "resources": [{"name": name, "algorithm": "blake3", "digest": str(manifest)}],
            },
        }
        payload = json.dumps(statement, ensure_ascii=False, separators=(",", ":")).encode()
        signature = _sign(self.key, _encoding(payload))
        hint = key_id(self.key.public_key())
        bundle = {
            "mediaType": _BUNDLE,
            "verificationMaterial": {"publicKey": {"hint": hint}},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": _PAYLOAD,
                "signatures": [{"sig": base64.b64encode(signature).decode(), "keyid": hint}],
            },
        }
        return (json.dumps(bundle, indent=2) + "\n").encode()


@dataclass(frozen=True)
class Verifier:
    """A public key that signatures are held against."""

    key: PublicKey
    path: str

    @classmethod
    def load(cls, path: str) -> Verifier:
        """The public key, or that of the certificate, in the PEM file at `path`. Raises UsageError."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
        from cryptography.x509 import load_pem_x509_certificate

        data = _read(path)
        try:
            if b"BEGIN CERTIFICATE" in data:
                key: Any = load_pem_x509_certificate(data).public_key()
            else:
                key = load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise UsageError(
                "is no public key that we can read", where=path, hint="use a PEM file"
            ) from error
        _require_known(key, path)
        return cls(key, path)

    def verify(self, signature: bytes | None, manifest: Digest, *, where: str) -> str:
        """The key's id, if `signature` is its over `manifest`. Raises Unsigned and BadSignature."""
        if signature is None:
            raise Unsigned("is not signed", where=where, hint=f"expected {where}{SUFFIX}")
        payload, found = _parse(signature, where)
        if not _holds(self.key, found, _encoding(payload)):
            raise BadSignature(
                f"its signature was not made by the key in {self.path}",
                where=where,
                hint="ask whoever published it for the right key",
            )
        if _signed_digest(payload, where) != str(manifest):
            raise BadSignature(
                "its signature is for another content",
                where=where,
                hint="it was changed or replaced after it was signed: fetch or sign it again",
            )
        return key_id(self.key)


def key_id(key: PublicKey) -> str:
    """SHA-256 of a public key's DER form, by which people tell keys apart."""
    from cryptography.hazmat.primitives import hashes, serialization

    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    return digest.finalize().hex()


def _encoding(payload: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    kind = _PAYLOAD.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _parse(signature: bytes, where: str) -> tuple[bytes, bytes]:
    """Payload and signature of a bundle."""
    try:
        envelope = json.loads(signature)["dsseEnvelope"]
        if envelope["payloadType"] != _PAYLOAD:
            raise ValueError(f"its payload is {envelope['payloadType']!r}")
        (only,) = envelope["signatures"]
        return (
            base64.b64decode(envelope["payload"], validate=True),
            base64.b64decode(only["sig"], validate=True),
        )
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise BadSignature(f"its signature can't be read: {error}", where=where) from error


def _signed_digest(payload: bytes, where: str) -> str:
    try:
        statement = json.loads(payload)
        if (statement["_type"], statement["predicateType"]) != (_STATEMENT, _PREDICATE):
            raise ValueError("it is about something else")
        (subject,) = statement["subject"]
        return str(subject["digest"]["blake3"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadSignature(f"what was signed can't be read: {error}", where=where) from error


def _read(path: str) -> bytes:
    if "\n" in path or "-----" in path or "\0" in path:
        raise UsageError("a key is given by the path of its file, not by itself")  # and is not shown
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise NotFound(f"can't be read: {error.strerror}", where=path, hint="name a PEM file") from error


def _require_known(key: object, path: str) -> None:
    """Raises UsageError for a key of another kind, or on another curve."""
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    if isinstance(key, ed25519.Ed25519PrivateKey | ed25519.Ed25519PublicKey):
        return
    what = type(key).__name__
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        if key.curve.name in _CURVES:
            return
        what = f"key on the curve {key.curve.name}"
    raise UsageError(f"is a {what}", where=path, hint="use Ed25519, or ECDSA over P-256 or P-384")


def _ecdsa(size: int) -> ECDSA:
    """The algorithm for a curve of `size` bits: each has its hash."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA(hashes.SHA256() if size == 256 else hashes.SHA384())


def _sign(key: PrivateKey, message: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    return key.sign(message, _ecdsa(key.curve.key_size))


def _holds(key: PublicKey, signature: bytes, message: bytes) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519

    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        else:
            assert isinstance(key, ec.EllipticCurvePublicKey)
            key.verify(signature, message, _ecdsa(key.curve.key_size))
    except InvalidSignature:
        return False
    return True
