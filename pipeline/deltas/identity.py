"""Who took part in a difference, from what a run has read of it."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.checkpoints.as_found import fingerprint_as_found
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.deltas.manifest import Identity
from pipeline.tensors.fingerprint import Digest, fold_checkpoint


def identify(found: Checkpoint, seen: Checkpoint, digests: Mapping[str, Digest]) -> Identity:
    """The identity of `found`, which was read as `seen`. digests: of the tensors of `seen`, by name.

    What of `found` is not in `seen` as it lies is read, if that is another view.
    """
    fingerprint = fold_checkpoint(digests)
    as_found = None if seen is found else fingerprint_as_found(found, seen, digests)
    return Identity(
        found.location,
        found.revision,
        fingerprint,
        found.derived,
        None if as_found == fingerprint else as_found,
    )
