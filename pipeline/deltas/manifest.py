"""What a delta says of itself: what it was made of, how, and a record per tensor."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from pipeline.checkpoints.header import is_too_large
from pipeline.checkpoints.strict_json import is_deep, parse_json
from pipeline.deltas.base_rows import BaseRows
from pipeline.deltas.base_sample import BaseSample
from pipeline.deltas.format import CODECS, FORMAT_VERSION, REORDERED_VERSION, Codec, is_reserved
from pipeline.errors import CorruptFile
from pipeline.tensors.arithmetic import CHUNK_ELEMENTS
from pipeline.tensors.dtypes import BY_NAME, DType, Kind, compute_dtype
from pipeline.tensors.fingerprint import Digest, fold_checkpoint
from pipeline.version import TOOL


@dataclass(frozen=True, slots=True)
class Identity:
    """A checkpoint that took part: where it was, at which Hub commit, and its fingerprint.

    derived: from what its values were made, if they were not stored as they are: then the fingerprint is
    that of the values made. as_found: the fingerprint of the checkpoint as it lay there, if it was seen
    otherwise: under other names, or with rows in another order.
    """

    location: str
    revision: str | None
    fingerprint: Digest
    derived: str | None = None
    as_found: Digest | None = None

    @property
    def known_by(self) -> Digest:
        """The fingerprint by which the checkpoint is known elsewhere."""
        return self.as_found or self.fingerprint


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A delta that was combined into this one: its share, its fingerprint, and what it was made of."""

    location: str
    scale: float
    fingerprint: Digest
    base: Identity | None
    post: Identity | None


@dataclass(frozen=True, slots=True)
class TensorForm:
    """What one tensor of a delta is, as headers say it.

    stored, base, post: dtypes; base_shape may have fewer rows than shape (a vocabulary that grew).
    """

    name: str
    shape: tuple[int, ...]
    base_shape: tuple[int, ...]
    stored: DType
    base: DType
    post: DType

    @property
    def carried(self) -> bool:
        """Whether the tensor is not float: post's values as they are, never added."""
        return not self.post.is_float

    @property
    def width(self) -> DType:
        """The format of the arithmetic that made the tensor."""
        return compute_dtype(self.base, self.post)


@dataclass(frozen=True, slots=True)
class TensorRecord(TensorForm):
    """One tensor of a delta, and what was found out when it was made.

    changed: elements that differ between base and post; in a combination, that are not zero. Digests are
    those of whole tensors; a combination has none of a post, and of a base only if all had the same.
    base_shape: of a combination, that of its largest base.
    delta_l2, base_l2, delta_max: norms, None where not finite or not known; see `tensors.norms`.
    """

    changed: int
    remainders: int
    exceptions: int
    base_digest: Digest | None
    post_digest: Digest | None
    stored_digest: Digest
    delta_l2: float | None
    base_l2: float | None
    delta_max: float | None


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that a delta says of itself.

    post_config: the post model's config.json. files: the companions and their digests. ancestors: what
    was combined, if this is a combination; it has no post then. base_rows: if base's vocabulary was
    brought into post's order; what is said of base is said of it in that order. base_sample: see there.
    """

    base: Identity | None
    post: Identity | None
    codec: Codec
    tensors: Sequence[TensorRecord]
    post_config: Mapping[str, Any] | None
    files: Mapping[str, Digest]
    ancestors: Sequence[Ancestor] = ()
    tool: str = TOOL
    base_rows: BaseRows | None = None
    base_sample: BaseSample | None = None

    @property
    def version(self) -> int:
        """The format's, that the delta needs of its readers."""
        return FORMAT_VERSION if self.base_rows is None else REORDERED_VERSION

    @property
    def fingerprint(self) -> Digest:
        """The delta's own: the same in every form of the file."""
        return fold_checkpoint({record.name: record.stored_digest for record in self.tensors})

    @property
    def delta_l2(self) -> float | None:
        """The norm of the whole delta; None if that of any of its tensors is not known."""
        return _whole([record.delta_l2 for record in self.tensors if not record.carried])

    @property
    def base_l2(self) -> float | None:
        """The norm of the whole base; None if that of any of its tensors is not known."""
        return _whole([record.base_l2 for record in self.tensors if not record.carried])

    def to_json(self) -> bytes:
        """The manifest as UTF-8 JSON, the same bytes for the same content."""
        head = {"version": self.version, "chunk_elements": CHUNK_ELEMENTS}
        content = {**head, **_plain(self)}
        for key in ("base_rows", "base_sample"):  # left out where there is none, as ever
            del content[key]
            if (what := getattr(self, key)) is not None:
                content[key] = what.to_json()
        if self.post_config is not None:  # as text, for it may have infinities, which JSON has not
            content["post_config"] = json.dumps(self.post_config, ensure_ascii=False)
        text = json.dumps(
            content, default=_plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        )
        return text.encode()

    @classmethod
    def from_json(cls, data: bytes, *, where: str) -> Manifest:
        """The manifest written as `data`. Raises CorruptFile if anything is missing or odd."""
        try:
            content = parse_json(data)
            said = content["version"], content["chunk_elements"]
            known = REORDERED_VERSION if "base_rows" in content else FORMAT_VERSION
            if said != (known, CHUNK_ELEMENTS) or not all(type(n) is int for n in said):
                raise CorruptFile(
                    f"is of delta format version {content['version']}",
                    where=where,
                    hint=f"this tool reads versions {FORMAT_VERSION} and {REORDERED_VERSION}: "
                    "use a newer one",
                )
            tensors = tuple(_record(record) for record in content["tensors"])
            return cls(
                base=_identity(content["base"]),
                post=_identity(content["post"]),
                codec=_codec(content["codec"], where),
                tensors=tensors,
                post_config=_config(content["post_config"]),
                files={name: Digest.parse(digest) for name, digest in content["files"].items()},
                ancestors=tuple(_ancestor(each) for each in content["ancestors"]),
                tool=_text(content["tool"]),
                base_rows=_base_rows(content, tensors),
                base_sample=BaseSample.parse(content.get("base_sample"), tensors),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CorruptFile(f"has no valid manifest: {error}", where=where) from error


def _base_rows(content: Mapping[str, Any], tensors: Sequence[TensorRecord]) -> BaseRows | None:
    if "base_rows" not in content:
        return None
    forms = {record.name: (record.shape, record.base_shape) for record in tensors if not record.carried}
    return BaseRows.parse(content["base_rows"], forms)


def _whole(norms: Sequence[float | None]) -> float | None:
    known = [norm for norm in norms if norm is not None]
    total = math.hypot(*known)
    return total if known and len(known) == len(norms) and math.isfinite(total) else None


def _plain(value: Any) -> Any:
    if isinstance(value, Digest | DType):
        return str(value)
    content = {field.name: getattr(value, field.name) for field in fields(value)}
    if isinstance(value, Identity):  # left out where there is nothing to say, as ever
        for key in ("derived", "as_found"):
            if content[key] is None:
                del content[key]
    return content


def _codec(value: Any, where: str) -> Codec:
    for known in CODECS:
        if value == known:
            return known
    raise CorruptFile(
        f"is packed by the codec {value!r}",
        where=where,
        hint=f"this tool knows {', '.join(CODECS)}: use a newer one",
    )


def _ancestor(content: Mapping[str, Any]) -> Ancestor:
    scale = _measure(content["scale"])
    if scale is None:
        raise ValueError("an ancestor has no scale")
    return Ancestor(
        location=_text(content["location"]),
        scale=scale,
        fingerprint=Digest.parse(content["fingerprint"]),
        base=_identity(content["base"]),
        post=_identity(content["post"]),
    )


def _identity(content: Mapping[str, Any] | None) -> Identity | None:
    if content is None:
        return None
    revision, derived = content["revision"], content.get("derived")
    return Identity(
        _text(content["location"]),
        None if revision is None else _text(revision),
        Digest.parse(content["fingerprint"]),
        None if derived is None else _text(derived),
        _digest(content.get("as_found")),
    )


def _config(text: Any) -> Mapping[str, Any] | None:
    """A config.json, which may have what Python writes for infinities."""
    if text is None:
        return None
    config = parse_json(_text(text).encode(), nonfinite=True)
    if not isinstance(config, dict) or is_deep(config):
        raise ValueError("post_config is no config")
    return config


def _text(value: Any) -> str:
    if type(value) is not str:
        raise ValueError(f"{value!r} is not text")
    return value


def _shape(value: Any) -> tuple[int, ...]:
    if type(value) is not list:
        raise ValueError(f"{value!r} is not a shape")
    shape = tuple(_count(size) for size in value)
    if is_too_large(shape):
        raise ValueError("a tensor is larger than any file")
    return shape


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise ValueError(f"{value!r} is not a count")
    return value


def _measure(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{value!r} is not a number")
    return float(value)


def _digest(value: Any) -> Digest | None:
    return None if value is None else Digest.parse(value)


def _record(content: Mapping[str, Any]) -> TensorRecord:
    record = TensorRecord(
        name=_text(content["name"]),
        shape=_shape(content["shape"]),
        base_shape=_shape(content["base_shape"]),
        stored=BY_NAME[content["stored"]],
        base=BY_NAME[content["base"]],
        post=BY_NAME[content["post"]],
        changed=_count(content["changed"]),
        remainders=_count(content["remainders"]),
        exceptions=_count(content["exceptions"]),
        base_digest=_digest(content["base_digest"]),
        post_digest=_digest(content["post_digest"]),
        stored_digest=Digest.parse(content["stored_digest"]),
        delta_l2=_measure(content["delta_l2"]),
        base_l2=_measure(content["base_l2"]),
        delta_max=_measure(content["delta_max"]),
    )
    if is_reserved(record.name):
        raise ValueError(f"a tensor can't be called {record.name!r}")
    kinds = {record.stored.kind, record.base.kind, record.post.kind}
    if len(kinds) > 1 or Kind.CODED in kinds or (record.carried and record.stored != record.post):
        raise ValueError(f"{record.name!r} cannot be {record.post}, {record.base} and {record.stored}")
    return record
