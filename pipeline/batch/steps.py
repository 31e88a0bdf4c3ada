"""The steps of a batch config, each the written form of one operation's call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from pipeline.batch.evidence_steps import Analyze, Evaluate, Gate, Page, Publish, Sweep
from pipeline.batch.fields import (
    CodecName,
    DeltaOut,
    DTypeName,
    FilePath,
    Id,
    ModelIn,
    ModelOut,
    NotEmpty,
    Repo,
    Scale,
    Size,
    Target,
    TierName,
)
from pipeline.batch.fusing import Fuses
from pipeline.batch.references import MAKES, Kind
from pipeline.batch.terms import Model, StoredTerm, Terms


class _Writes(Model):
    """What steps that write have in common. output: see each.

    sign_key: a private key (PEM) that signs the output. tier: the access tier of blobs that are written;
    None is the account's. overwrite: whether to replace an output that is another than this step's; None
    is the default's.
    """

    sign_key: FilePath | None = None
    tier: TierName | None = None
    overwrite: bool | None = None


class _Pushes(_Writes):
    """What steps have in common whose output may go to the Hub, too.

    push_to_hub: the repository there, org/name. private: whether a new repository is made private.
    revision: the repository's branch; None is main.
    """

    push_to_hub: Repo | None = None
    private: bool = False
    revision: str | None = None


class Pair(_Pushes):
    """A base model and its post-trained version, and where their difference goes.

    base: the model that was post-trained. post: what came of it. output: the delta, a name in the store
    or a location. dtype: the format of its values; auto is post's. codec: rans packs it, losslessly;
    none leaves it to any reader of safetensors.
    """

    base: ModelIn
    post: ModelIn
    output: DeltaOut | None = None
    dtype: DTypeName | None = None
    codec: CodecName = "rans"


class Compute(Pair):
    """A step that writes the delta post - base; without an output it is taken on the way into sums.

    id: what others call its output, by "@id". run: what the step does.
    """

    id: Id
    run: Literal["compute"] = "compute"
    makes: ClassVar[Kind] = MAKES["compute"]


class Apply(_Pushes, Fuses):
    """A step that writes the model base + the sum of scale * delta.

    id: what others call its output, by "@id". run: what the step does. base: the model that the deltas
    are added to. deltas: each "DELTA", "DELTA=SCALE", or an object with a delta, or with the base and
    post of a difference that is taken on the way. output: a new model folder. scale: of deltas that have
    none of their own. dtype: the format of the weights; auto is base's. shard_size: of the files of
    weights, as "5GiB". old_base: the base that the first delta was made of, to report how far the new
    one is from it. key: a public key or certificate (PEM) that must have signed the deltas.
    require_signature: whether deltas that are not signed are refused.
    """

    id: Id
    run: Literal["apply"] = "apply"
    base: ModelIn
    deltas: Terms
    output: ModelOut
    scale: Scale = 1.0
    dtype: DTypeName | None = None
    shard_size: Size | None = None
    old_base: ModelIn | None = None
    key: FilePath | None = None
    require_signature: bool = False
    makes: ClassVar[Kind] = MAKES["apply"]

    def _scales(self) -> Sequence[float]:
        return [self.scale if term.scale is None else term.scale for term in self.deltas]


class Combine(_Writes):
    """A step that writes the sum of scale * delta as one delta.

    id: what others call its output, by "@id". run: what the step does. deltas: each "DELTA",
    "DELTA=SCALE" or an object. output: the delta, a name in the store or a location. codec: rans packs
    it, losslessly; none leaves it to any reader of safetensors.
    """

    id: Id
    run: Literal["combine"] = "combine"
    deltas: Annotated[tuple[StoredTerm, ...], Field(strict=False), NotEmpty]
    output: DeltaOut
    codec: CodecName = "rans"
    makes: ClassVar[Kind] = MAKES["combine"]


class Verify(Model):
    """A step that checks a delta or a model, and fails if it is not whole, or not whose it should be.

    id: its name. run: what the step does. target: the delta, or a model that apply wrote. base: the
    model that a delta must be made of. post: the model that a delta must give back. key: a public key or
    certificate (PEM) that must have signed it. require_signature: whether it must be signed.
    """

    id: Id
    run: Literal["verify"] = "verify"
    target: Target
    base: ModelIn | None = None
    post: ModelIn | None = None
    key: FilePath | None = None
    require_signature: bool = False
    output: ClassVar[None] = None
    makes: ClassVar[None] = None


AnyStep = Compute | Apply | Combine | Verify | Evaluate | Gate | Publish | Analyze | Page | Sweep
Step = Annotated[AnyStep, Field(discriminator="run")]


def given(step: AnyStep, *names: str) -> dict[str, Any]:
    """Those of the step's fields that say anything, by name."""
    values = {name: getattr(step, name) for name in names}
    return {name: value for name, value in values.items() if value not in (None, False, ())}
