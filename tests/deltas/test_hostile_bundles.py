"""Whatever a signature's file says: it is a bad signature, and never an error of ours."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keys import MAKERS, Pair

from pipeline.deltas.signing import Signer, Verifier
from pipeline.errors import (
    BadSignature,
    PipelineError,
)
from pipeline.tensors.fingerprint import digest_bytes

SOMETHING = digest_bytes(b"a manifest")


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
