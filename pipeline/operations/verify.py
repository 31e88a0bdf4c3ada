"""verify: whether a delta, or a model that apply wrote, is whole, whose it is, and what it is of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

from pipeline.errors import UsageError
from pipeline.operations.arguments import names_a_delta
from pipeline.operations.outputs.signatures import find_signature, load_verifier
from pipeline.operations.setup import Reading, Setup
from pipeline.operations.verify_delta import check_delta
from pipeline.operations.verify_model import check_model
from pipeline.storage.locations import parse_delta
from pipeline.storage.opening import open_parent


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What verify found; whatever is wrong is raised instead.

    base, post: the checkpoints that the delta was compared with. signed_by: the id of the key whose
    signature holds, None if none was asked for. unlisted: files of a model folder that its provenance
    does not name, weights never among them.
    """

    location: str
    kind: str
    tensors: int
    read_bytes: int
    fingerprint: str
    base: str | None = None
    post: str | None = None
    restores_post: bool | None = None
    signed_by: str | None = None
    unlisted: Sequence[str] = ()


def verify(
    location: str,
    *,
    base: str | None = None,
    post: str | None = None,
    key: str | None = None,
    require_signature: bool = False,
    **options: Unpack[Reading],
) -> VerifyReport:
    """Check the delta or the model folder at `location`, reading every byte of it once.

    base, post: checkpoints that a delta is said to be made of; with both, post is restored in memory,
    chunk by chunk, and compared bit for bit. key: a public key or certificate (PEM), by which it must
    be signed. options: see `Reading`. Nothing is written.
    Raises CorruptFile, OtherCheckpoint, Unsigned, BadSignature and others of `pipeline.errors`.
    """
    verifier = load_verifier(key, required=require_signature)
    setup = Setup.of(options)
    settings, resources, progress = setup.settings, setup.resources, setup.progress
    if names_a_delta(location):
        where = parse_delta(location)
        parent, name = open_parent(where, settings)
        signature = find_signature(parent, name) if verifier else None
        delta = check_delta(
            location, settings, resources, progress, base=base, post=post,
            verifier=verifier, signature=signature,
        )  # fmt: skip
        return VerifyReport(kind="delta", **delta)
    if base or post:
        raise UsageError(
            "only a delta is compared with its base and post", where=location, hint="leave them out"
        )
    model = check_model(location, settings, resources, progress, verifier=verifier)
    return VerifyReport(kind="model", **model)
