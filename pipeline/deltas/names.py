"""The names of a delta's tensors, and the checkpoints it was made of under them."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.checkpoints.alignment import is_absent
from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.checkpoints.meeting import Forms, as_base, with_aliases
from pipeline.checkpoints.ties import Head, Names, names_of
from pipeline.deltas.delta import Delta
from pipeline.deltas.manifest import TensorForm


def names_of_delta(delta: Delta) -> Names:
    """The names of what a delta is a difference of; its digests say which of its tensors are equal."""

    def is_copy(one: str, other: str, may_read: bool) -> bool:
        left, right = (delta.tensors[name].record for name in (one, other))
        ours = (left.stored_digest, left.base_digest, left.post_digest)
        return ours == (right.stored_digest, right.base_digest, right.post_digest)

    shapes = {name: tensor.record.shape for name, tensor in delta.tensors.items()}
    return Names(delta.location, shapes, delta.manifest.post_config, is_copy=is_copy)


def lacking(records: Iterable[TensorForm]) -> Forms:
    """Formats and shapes, by name, of the tensors that the base of a delta lacked."""
    return {r.name: (r.post, r.shape) for r in records if is_absent(r.base_shape, r.shape)}


def as_side_of(delta: Delta, model: Checkpoint, *, is_base: bool) -> Checkpoint:
    """`model` under the names of `delta`, as its base or its post; as it is where it can't be that."""
    if model.tensors.keys() == delta.tensors.keys():
        return model
    if is_base:
        forms = lacking(each.record for each in delta.tensors.values())
        return as_base(model, names_of_delta(delta), forms)
    return with_aliases(model, _copies(delta, model))


def _copies(delta: Delta, model: Checkpoint) -> dict[str, str]:
    """What a tied post has once and the delta more than once: the latter's names, with the former's."""
    records = {name: tensor.record for name, tensor in delta.tensors.items()}
    tables = {n: r for n, r in records.items() if r.shape[:1] == (delta.vocab_size,) and r.post_digest}
    lacks = [name for name in tables if name not in model.tensors]
    if not lacks or names_of(model).head() is not Head.TIED:
        return {}
    own = {record.post_digest: name for name, record in tables.items() if name in model.tensors}
    return {name: own[d] for name in lacks if (d := tables[name].post_digest) in own}
