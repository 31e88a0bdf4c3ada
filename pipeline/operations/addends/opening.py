"""What people name as parts of a sum, opened."""

from __future__ import annotations

from contextlib import ExitStack

from pipeline.checkpoints.adapters.post import open_post
from pipeline.checkpoints.checkpoint import open_checkpoint
from pipeline.deltas.delta import open_delta
from pipeline.deltas.signing import Verifier
from pipeline.errors import Unsigned
from pipeline.operations.addends.addend import Addend
from pipeline.operations.addends.stored import StoredAddend
from pipeline.operations.addends.subtraction import Subtraction
from pipeline.operations.arguments import Difference
from pipeline.operations.outputs.signatures import find_signature
from pipeline.operations.setup import Setup
from pipeline.settings import Settings
from pipeline.storage.locations import parse_delta
from pipeline.storage.opening import open_parent


def open_addend(
    stack: ExitStack, what: str | Difference, setup: Setup, verifier: Verifier | None
) -> Addend:
    """Open the delta at the location `what`, or the models of a difference, as long as `stack` lasts.

    verifier: whose key it must be signed by, if that is asked for.
    Raises what compute would for a difference, and Unsigned: nobody has seen it who could sign it.
    """
    if isinstance(what, Difference):
        return _open_difference(stack, what, setup, verifier)
    return _open_stored(stack, what, setup.settings, verifier)


def _open_difference(
    stack: ExitStack, what: Difference, setup: Setup, verifier: Verifier | None
) -> Subtraction:
    settings, dry_run = setup.settings, setup.dry_run
    base = stack.enter_context(open_checkpoint(what.base, settings=settings, headers_only=dry_run))
    post = stack.enter_context(open_post(what.post, base, settings=settings, headers_only=dry_run))
    found = Subtraction.of(base, post, settings.digest_cache, headers_only=dry_run)
    if verifier is not None:
        raise Unsigned(
            "is made on the way, so it is not signed",
            where=found.location,
            hint="store it with `cli.py compute --sign-key`, and apply that",
        )
    return found


def _open_stored(
    stack: ExitStack, what: str, settings: Settings, verifier: Verifier | None
) -> StoredAddend:
    delta = stack.enter_context(open_delta(what, settings=settings))
    if verifier is not None:
        store, name = open_parent(parse_delta(what), settings)
        signature = find_signature(store, name)
        verifier.verify(signature, delta.manifest_digest, where=delta.location)
    return StoredAddend(delta)
