"""Signatures of deltas and models: found beside what they sign, and put there."""

from __future__ import annotations

from pipeline.checkpoints.files import read_file
from pipeline.deltas.signing import MAX_SIGNATURE_BYTES, SUFFIX, Verifier
from pipeline.errors import BadSignature, UsageError
from pipeline.storage.base import Files, Store


def find_signature(store: Files, name: str) -> bytes | None:
    """The signature beside what is called `name`, or None. Raises BadSignature if it is too long."""
    found = store.stat(name + SUFFIX)
    if found is None:
        return None
    if found.nbytes > MAX_SIGNATURE_BYTES:
        raise BadSignature(f"{found.nbytes} bytes are too many for a signature", where=name + SUFFIX)
    return read_file(store, name + SUFFIX)


def put_signature(store: Store, name: str, signature: bytes, *, overwrite: bool) -> None:
    """Put the signature of what is called `name` beside it.

    After it: in between it is not yet signed, or signed as something else, and refused.
    """
    size = len(signature)
    with store.create(name + SUFFIX, size_hint=size, overwrite=overwrite) as writer:
        writer.write(0, signature)
        writer.commit()


def load_verifier(key: str | None, *, required: bool) -> Verifier | None:
    """What checks signatures by the public key or certificate (PEM) in the file `key`, if there is one.

    Raises UsageError if a signature is required and no key is given.
    """
    if required and key is None:
        raise UsageError("a signature can't be checked without a key", hint="add --key KEY.pem")
    return Verifier.load(key) if key else None
