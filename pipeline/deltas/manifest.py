"""What a delta says of itself: what it was made of, how, and a record per tensor."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from pipeline.deltas.format import FORMAT_VERSION
from pipeline.errors import CorruptFile
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.tensors.dtypes import BY_NAME, DType, Kind, compute_dtype
from pipeline.tensors.fingerprint import Digest
from pipeline.version import TOOL


@dataclass(frozen=True, slots=True)
class Identity:
    """A checkpoint that took part: where it was, at which Hub commit, and its fingerprint."""

    location: str
    revision: str | None
    fingerprint: Digest


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One tensor of a delta.

    stored, base, post: dtypes; base_shape may have fewer rows than shape (a vocabulary that grew).
    changed: elements that differ between base and post. Digests are those of whole tensors.
    """

    name: str
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    stored: DType
    base: DType
    post: DType
    changed: int
    remainders: int
    exceptions: int
    base_digest: Digest
    post_digest: Digest
    stored_digest: Digest

    @property
    def carried(self) -> bool:
        """Whether the tensor is not float: post's values as they are, never added."""
        return not self.post.is_float

    @property
    def width(self) -> DType:
        """The format of the arithmetic that made the tensor."""
        return compute_dtype(self.base, self.post)


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that a delta says of itself.

    post_config: the post model's config.json. files: the companions and their digests.
    """

    base: Identity
    post: Identity
    codec: str
    tensors: Sequence[TensorRecord]
    post_config: Mapping[str, Any] | None
    files: Mapping[str, Digest]
    tool: str = TOOL

    def to_json(self) -> bytes:
        """The manifest as UTF-8 JSON, the same bytes for the same content."""
        head = {"version": FORMAT_VERSION, "chunk_elements": CHUNK_ELEMENTS}
        content = {**head, **_plain(self)}
        return json.dumps(content, default=_plain, ensure_ascii=False, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, data: bytes, *, where: str) -> Manifest:
        """The manifest written as `data`. Raises CorruptFile if anything is missing or odd."""
        try:
            content = json.loads(data)
            if content["version"] != FORMAT_VERSION or content["chunk_elements"] != CHUNK_ELEMENTS:
                raise CorruptFile(
                    f"is of delta format version {content['version']}",
                    where=where,
                    hint=f"this tool reads version {FORMAT_VERSION}: use a newer one",
                )
            return cls(
                base=_identity(content["base"]),
                post=_identity(content["post"]),
                codec=str(content["codec"]),
                tensors=tuple(_record(record) for record in content["tensors"]),
                post_config=_config(content["post_config"]),
                files={str(n): Digest.parse(digest) for n, digest in content["files"].items()},
                tool=str(content["tool"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise CorruptFile(f"has no valid manifest: {error}", where=where) from error


def _plain(value: Any) -> Any:
    if isinstance(value, Digest | DType):
        return str(value)
    return {field.name: getattr(value, field.name) for field in fields(value)}


def _identity(content: Mapping[str, Any]) -> Identity:
    revision = content["revision"]
    return Identity(
        str(content["location"]),
        None if revision is None else str(revision),
        Digest.parse(content["fingerprint"]),
    )


def _config(value: Any) -> Mapping[str, Any] | None:
    if value is not None and not isinstance(value, dict):
        raise ValueError("post_config is not an object")
    return value


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r} is not a count")
    return value


def _record(content: Mapping[str, Any]) -> TensorRecord:
    record = TensorRecord(
        name=str(content["name"]),
        shape=tuple(_count(size) for size in content["shape"]),
        base_shape=tuple(_count(size) for size in content["base_shape"]),
        stored=BY_NAME[content["stored"]],
        base=BY_NAME[content["base"]],
        post=BY_NAME[content["post"]],
        changed=_count(content["changed"]),
        remainders=_count(content["remainders"]),
        exceptions=_count(content["exceptions"]),
        base_digest=Digest.parse(content["base_digest"]),
        post_digest=Digest.parse(content["post_digest"]),
        stored_digest=Digest.parse(content["stored_digest"]),
    )
    kinds = {record.stored.kind, record.base.kind, record.post.kind}
    if len(kinds) > 1 or Kind.CODED in kinds or (record.carried and record.stored != record.post):
        raise ValueError(f"{record.name!r} cannot be {record.post}, {record.base} and {record.stored}")
    return record
