"""What earlier runs have found out: fingerprints of checkpoints, and checks that were passed.

Weights are read once to be fingerprinted. From then on a checkpoint is known by what is cheap to see,
its commit, or its files' names, sizes and versions. The run's report carries this from run to run;
without it nothing is wrong, things are only read again.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.errors import UsageError
from pipeline.tensors.fingerprint import Digest


class Known:
    """Fingerprints by identity, and the keys of checks. Safe to use from several threads."""

    def __init__(
        self, fingerprints: Mapping[str, Digest] | None = None, checks: Sequence[str] = ()
    ) -> None:
        self._fingerprints = dict(fingerprints or {})
        self._checks = dict.fromkeys(checks)
        self._lock = threading.Lock()

    @classmethod
    def parse(cls, content: Any) -> Self:
        """What a report says is known; nothing, if it is not in a form that we know."""
        try:
            fingerprints = {
                str(Digest.parse(identity)): Digest.parse(found)
                for identity, found in content["fingerprints"].items()
            }
            return cls(fingerprints, [str(Digest.parse(key)) for key in content["checks"]])
        except (UsageError, ValueError, KeyError, TypeError, AttributeError):
            return cls()

    def as_json(self) -> dict[str, Any]:
        """The form in which a report says it."""
        with self._lock:
            found = {identity: str(digest) for identity, digest in self._fingerprints.items()}
            return {"fingerprints": found, "checks": list(self._checks)}

    def fingerprint(self, checkpoint: Checkpoint) -> Digest | None:
        """The fingerprint of an opened checkpoint, if it is known."""
        with self._lock:
            return self._fingerprints.get(str(checkpoint.identity))

    def has(self, identity: Digest) -> bool:
        """Whether the fingerprint of what has this identity is known."""
        with self._lock:
            return str(identity) in self._fingerprints

    def learn(self, identity: Digest, fingerprint: Digest) -> None:
        """Note the fingerprint of what has this identity."""
        with self._lock:
            self._fingerprints[str(identity)] = fingerprint

    def passed(self, key: Digest) -> bool:
        """Whether the check with this key was passed."""
        with self._lock:
            return str(key) in self._checks

    def note_passed(self, key: Digest) -> None:
        """Note that it was."""
        with self._lock:
            self._checks[str(key)] = None
