"""What a page shows: the facts of deltas, releases, checks, gates and runs, whoever reported them.

None, wherever it stands, is "not said": a report of compute knows less of a delta than its manifest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.quality.report import Evaluation


@dataclass(frozen=True, slots=True)
class Model:
    """A checkpoint or a delta that something was made of. fingerprint: of its content."""

    location: str | None
    fingerprint: str | None = None
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A delta in a sum, with its share; base, post: what it was made of itself."""

    scale: float
    delta: Model
    base: Model | None = None
    post: Model | None = None


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of a delta. rank: effective rank of what changed."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    changed: int | None = None
    delta_l2: float | None = None
    base_l2: float | None = None
    delta_max: float | None = None
    remainders: int | None = None
    exceptions: int | None = None
    rank: float | None = None

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)

    @property
    def share(self) -> float | None:
        """The share of elements that changed."""
        return None if self.changed is None else self.changed / max(self.elements, 1)

    @property
    def relative(self) -> float | None:
        """The norm of what changed over the norm of the base."""
        return self.delta_l2 / self.base_l2 if self.base_l2 and self.delta_l2 is not None else None


@dataclass(frozen=True, slots=True)
class Signature:
    """A signature that lies beside something. key: whose it is; is_checked: and whether it holds."""

    key: str | None
    is_checked: bool


@dataclass(frozen=True, slots=True)
class Delta:
    """A delta. parts: what was combined into it, if it is a combination."""

    model: Model
    base: Model | None = None
    post: Model | None = None
    parts: Sequence[Part] = ()
    tensors: Sequence[Tensor] = ()
    count: int | None = None
    elements: int | None = None
    changed: int | None = None
    remainders: int | None = None
    exceptions: int | None = None
    relative: float | None = None
    nbytes: int | None = None
    codec: str | None = None
    carried: Sequence[str] = ()
    signature: Signature | None = None
    tool: str | None = None
    pushed: str | None = None

    @property
    def share(self) -> float | None:
        """The share of elements that changed."""
        return None if self.changed is None or not self.elements else self.changed / self.elements


@dataclass(frozen=True, slots=True)
class Release:
    """A model that apply wrote. case: whether it is post restored, or the formula on another base.

    config_rows: keys of config.json with new base's, post's and the result's value, and whose that is.
    """

    model: Model
    base: Model | None = None
    parts: Sequence[Part] = ()
    case: str | None = None
    count: int | None = None
    elements: int | None = None
    nbytes: int | None = None
    nonfinite: int | None = None
    base_distance: float | None = None
    carried: Sequence[str] = ()
    config_rows: Sequence[tuple[str, ...]] = ()
    signature: Signature | None = None
    tool: str | None = None
    pushed: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """What verify found: had anything been wrong, there would be no such report."""

    model: Model
    kind: str
    count: int | None
    read_bytes: int | None
    base: str | None
    post: str | None
    restores_post: bool | None
    signed_by: str | None
    unlisted: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a gate's condition, as it was judged. left, right: what was compared.

    subject: the comparison with the names of what was compared. error: of the comparison.
    """

    text: str
    passed: bool
    subject: str | None = None
    comparison: str | None = None
    left: float | None = None
    right: float | None = None
    error: float | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate said of a model."""

    model: Model
    passed: bool
    conditions: Sequence[Condition]
    evaluation: str | None = None

    @property
    def met(self) -> int:
        """How many conditions were met."""
        return sum(each.passed for each in self.conditions)


@dataclass(frozen=True, slots=True)
class Step:
    """A step of a batch."""

    id: str
    run: str
    status: str
    seconds: float | None
    note: str | None


@dataclass(frozen=True, slots=True)
class Run:
    """A batch."""

    config: str | None
    started: str | None
    seconds: float | None
    ok: bool
    steps: Sequence[Step]


@dataclass(frozen=True, slots=True)
class Pair:
    """How two deltas agree. both: the share of elements that both change; same_sign: to one side."""

    first: str
    second: str
    cosine: float | None
    both: float | None
    same_sign: float | None


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing that analyze made. content: its bytes; kind: svg+xml or png."""

    name: str
    kind: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Source:
    """A report that a page was made from. digest: BLAKE3 of its bytes, of a delta its fingerprint."""

    location: str
    kind: str
    digest: str


@dataclass
class Evidence:
    """All that one page shows, in the order in which it was given."""

    deltas: list[Delta] = field(default_factory=list)
    releases: list[Release] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)
    published: list[Model] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    plots: list[Plot] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)
