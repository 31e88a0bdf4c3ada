"""The delta file: its names and its two forms. Version 1; `docs/delta-format.md` is the specification.

A delta is one safetensors file. In the *plain* form (codec "none") its float tensors bear the post
checkpoint's names and hold post - base rounded to the storage format, so any safetensors reader can add
them. In the *packed* form all chunks lie compressed in one byte tensor. What makes a delta exact and
provable lies in byte tensors whose names begin with `RESERVED`:

    packed          packed form: per chunk its values, encoded, and what rounding lost, encoded
    carried.NAME    plain form: a tensor that is not float, post's own values
    corrections     plain form: per chunk what rounding lost (see `pipeline.deltas.corrections`)
    index           little-endian uint64: where each chunk's bytes begin in `corrections`; or, in the
                    packed form, its values and then its corrections in `packed`; and at the end the end
    digests         per chunk BLAKE3 digests of 32 bytes: base, post, stored (values and corrections as
                    in the plain form); in the packed form also of the chunk's bytes in the file; zeros
                    for a side that there is not, as for the base of rows that it has not
    file.NAME       a companion of the post model, in the packed form compressed by zstd, with the digest
                    of what zstd made before it
    manifest        JSON: identities, and a record per tensor (see `pipeline.deltas.manifest`)

Chunks are counted through the tensors in the manifest's order, `CHUNK_ELEMENTS` elements each.
`__metadata__` says the format's version, the manifest's digest, and the header's own digest, taken with
zeros in its place. It is small and its size is known beforehand, so everything else has its place before
a byte is written. So no bit of the file is in nobody's digest.
"""

from __future__ import annotations

import re
from typing import Literal

from pipeline.checkpoints.header import METADATA
from pipeline.errors import UsageError
from pipeline.tensors.fingerprint import Digest, digest_bytes

FORMAT_VERSION = 1
REORDERED_VERSION = 2  # of deltas whose base stood in another order of rows, and of no others
RESERVED = "__paramdelta__."
PACKED = RESERVED + "packed"
CORRECTIONS = RESERVED + "corrections"
INDEX = RESERVED + "index"
DIGESTS = RESERVED + "digests"
MANIFEST = RESERVED + "manifest"
FILE = RESERVED + "file."
CARRIED = RESERVED + "carried."

VERSION_KEY = "paramdelta.version"
MANIFEST_KEY = "paramdelta.manifest"
HEADER_KEY = "paramdelta.header"
_UNSEALED = "0" * 64

Codec = Literal["none", "rans"]
PLAIN: Codec = "none"
DEFAULT_CODEC: Codec = "rans"
CODECS: tuple[Codec, ...] = ("rans", "none")

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

BASE, POST, STORED, FILED = range(4)  # the digests of a chunk; the last in the packed form only


def is_reserved(name: str) -> bool:
    """Whether no tensor may have this name.

    None has control characters: fingerprints end names with a zero byte, and what has one inside could
    pass for two.
    """
    return name.startswith(RESERVED) or name == METADATA or bool(_CONTROL.search(name))


def parse_codec(text: str) -> Codec:
    """The codec called `text`. Raises UsageError."""
    for known in CODECS:
        if text == known:
            return known
    raise UsageError(f"{text!r} is not a codec", hint=f"known: {', '.join(CODECS)}")


def metadata(manifest: Digest, version: int = FORMAT_VERSION) -> dict[str, str]:
    """The header's `__metadata__`, before the header is sealed."""
    return {
        "format": "pt",
        VERSION_KEY: str(version),
        MANIFEST_KEY: str(manifest),
        HEADER_KEY: _UNSEALED,
    }


def seal(header: bytes) -> bytes:
    """`header` (its length, its JSON, its padding) with its own digest in place of zeros."""
    unsealed = f'"{HEADER_KEY}":"{_UNSEALED}"'.encode()
    sealed = f'"{HEADER_KEY}":"{digest_bytes(header)}"'.encode()
    return header.replace(unsealed, sealed, 1)


def is_sealed(text: bytes, digest: str) -> bool:
    """Whether a header's JSON `text` with its padding is what its digest says."""
    if len(digest) != len(_UNSEALED) or not digest.isascii():
        return False
    parts = text.split(digest.encode())
    if len(parts) != 2:
        return False
    header = len(text).to_bytes(8, "little") + _UNSEALED.encode().join(parts)
    return str(digest_bytes(header)) == digest


def digests_per_chunk(codec: Codec) -> int:
    """How many digests a chunk has."""
    return 3 if codec == PLAIN else 4


def parts_per_chunk(codec: Codec) -> int:
    """How many indexed ranges a chunk has: corrections, or values and corrections."""
    return 1 if codec == PLAIN else 2
