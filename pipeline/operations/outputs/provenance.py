"""paramdelta.json: where a model folder comes from, and the digests of all that is in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pipeline.checkpoints.output import as_json
from pipeline.errors import CorruptFile, UsageError
from pipeline.storage.names import safe_name
from pipeline.tensors.fingerprint import Digest, digest_bytes
from pipeline.version import TOOL

PROVENANCE = "paramdelta.json"
_VERSION = 1
_UNSEALED = "0" * 64  # in the place of the file's own digest while that is taken


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a folder is made of.

    origin: base, deltas and what was counted, for people and later tools; as it is read, everything that
    the file says, of which only the rest here is checked. tensors: fingerprint by name,
    and that of the whole. shards: the digest of each weight file's header, its length included. files:
    the digests of all others but this one, which has its own.
    """

    origin: Mapping[str, Any]
    fingerprint: Digest
    tensors: Mapping[str, Digest]
    shards: Mapping[str, Digest]
    files: Mapping[str, Digest]

    def to_json(self) -> bytes:
        """The file's content. No times in it: it is reproducible."""
        unsealed = as_json(
            {
                "version": _VERSION,
                "digest": _UNSEALED,
                "tool": TOOL,
                "fingerprint": str(self.fingerprint),
                **self.origin,
                "files": _texts(self.files),
                "shards": _texts(self.shards),
                "tensors": _texts(self.tensors),
            }
        )
        return unsealed.replace(_UNSEALED.encode(), str(digest_bytes(unsealed)).encode(), 1)

    @classmethod
    def parse(cls, data: bytes, *, where: str) -> Self:
        """The provenance written as `data`. Raises CorruptFile."""
        try:
            content = json.loads(data)
            if content["version"] != _VERSION:
                raise ValueError(f"version {content['version']!r}, which this tool does not know")
            digest = str(Digest.parse(content["digest"]))
            if str(digest_bytes(data.replace(digest.encode(), _UNSEALED.encode(), 1))) != digest:
                raise ValueError("it is not as it was written")
            return cls(
                origin=content,
                fingerprint=Digest.parse(content["fingerprint"]),
                tensors=_digests(content["tensors"]),
                shards={safe_name(name): d for name, d in _digests(content["shards"]).items()},
                files={safe_name(name): d for name, d in _digests(content["files"]).items()},
            )
        except (UsageError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptFile(f"is no provenance that can be checked: {error}", where=where) from error


def _texts(digests: Mapping[str, Digest]) -> dict[str, str]:
    return {name: str(digest) for name, digest in digests.items()}


def _digests(content: Mapping[str, str]) -> dict[str, Digest]:
    return {str(name): Digest.parse(text) for name, text in content.items()}
