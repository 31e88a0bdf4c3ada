"""A new base is read in a few places before anything is written: is it of the delta's family at all?

The places are those of the sample that a delta keeps of its base, or that is taken of a difference's
own. A few hundred values of each of at most 64 matrices tell relatives from strangers; routers tell
whether experts stand in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from math import prod, sqrt

import numpy as np

from pipeline.checkpoints.checkpoint import Checkpoint
from pipeline.deltas.base_sample import COLUMNS, BaseSample
from pipeline.deltas.delta import Delta
from pipeline.deltas.manifest import TensorForm, TensorRecord
from pipeline.deltas.sampling import (
    at_once,
    choose_runs,
    read_columns,
    read_run,
    values_of,
)
from pipeline.errors import CorruptFile, UnrelatedBase
from pipeline.operations.addends.addend import Addend
from pipeline.operations.lineage.figures import Extreme, Lineage
from pipeline.tensors.doubles import Doubles
from pipeline.tensors.likeness import (
    centred_cosine,
    moved_rows,
    relative_distance,
    relative_size,
    row_cosines,
)

_ROUTERS_IN_A_PREVIEW = 4  # of a dry run, which is to read little


def probe_lineage(
    base: Checkpoint, addends: Sequence[Addend], *, allow_unrelated: bool, preview: bool
) -> list[Lineage]:
    """How `base` stands to the base of each addend.

    preview: whether to read little, of routers above all.
    Raises UnrelatedBase with every reason why one has nothing to do with the other, unless
    `allow_unrelated`.
    """
    found = [_probe(base, addend, preview=preview) for addend in addends]
    problems = [
        f"{addend.location}: {problem}"
        for addend, each in zip(addends, found, strict=True)
        for problem in each.problems
    ]
    if problems and not allow_unrelated:
        raise UnrelatedBase(problems, where=base.location)
    return found


def check_sample(delta: Delta, base: Checkpoint) -> None:
    """The delta's sample must be of `base`, which is its very base. Raises CorruptFile if it is not."""
    kept = delta.manifest.base_sample
    if kept is None:
        return
    for values, read in ((kept.runs, read_run), (kept.columns, read_columns)):
        for name, data in values.items():
            if read(base, delta.tensors[name].record).tobytes() != data:
                raise CorruptFile(
                    f"its sample of the base's {name!r} is not of that base",
                    where=delta.location,
                    hint="whoever made it has forged what tells unrelated bases: compute it again",
                )


def _probe(base: Checkpoint, addend: Addend, *, preview: bool) -> Lineage:
    forms = {name: _called(name, tensor.record) for name, tensor in addend.tensors.items()}
    sample = addend.read_sample()
    if sample is None:
        return _by_norms(base, forms.values())
    found = _by_sample(base, sample, forms.values())
    if found.cosine is None:
        found = _by_norms(base, forms.values())
    names = [name for name in sorted(sample.columns) if _fits(base, forms[name])]
    if preview and base.has_remote_weights:
        names = names[:: -(-len(names) // _ROUTERS_IN_A_PREVIEW) or 1]
    moved = at_once(lambda form: _moved(base, sample, form), [forms[name] for name in names])
    return replace(found, routers=len(names), moved=tuple(filter(None, moved)))


def _called(name: str, form: TensorForm) -> TensorForm:
    """`form` under the name that the new base has for the tensor."""
    return form if form.name == name else replace(form, name=name)


def _by_sample(base: Checkpoint, sample: BaseSample, forms: Iterable[TensorForm]) -> Lineage:
    """Each run of the sample compared with the new base's."""
    chosen = [form for form in forms if form.name in sample.runs and _fits(base, form)]
    pairs = [
        (values_of(sample.runs[form.name], form.base), new)
        for form, new in zip(chosen, _runs(base, chosen), strict=True)
    ]
    cosines = [
        Extreme(form.name, cosine)
        for form, (old, new) in zip(chosen, pairs, strict=True)
        if (cosine := centred_cosine(new, old)) is not None
    ]
    distances = [relative_distance(new, old) for old, new in pairs]
    ratios = [relative_size(new, old) for old, new in pairs]
    return Lineage(
        basis="sample" if cosines else "nothing",
        tensors=len(cosines),
        cosine=_median(each.value for each in cosines),
        distance=_median(distances),
        ratio=_median(ratios),
        lowest=min(cosines, key=lambda each: each.value, default=None),
    )


def _by_norms(base: Checkpoint, forms: Iterable[TensorForm]) -> Lineage:
    """The size of the new base's values beside the norms that a manifest has."""
    known = [form for form in forms if isinstance(form, TensorRecord) and form.base_l2]
    norms = {record.name: record.base_l2 for record in known}
    chosen = [form for form in choose_runs(base, known) if _fits(base, form)]
    sizes = [(norms[form.name] or 0) / sqrt(prod(form.base_shape)) for form in chosen]
    ratios = [
        relative_size(new, np.full_like(new, size))
        for size, new in zip(sizes, _runs(base, chosen), strict=True)
    ]
    ratio = _median(ratios)
    return Lineage("nothing" if ratio is None else "norms", len(chosen), ratio=ratio)


def _runs(base: Checkpoint, forms: Sequence[TensorForm]) -> list[Doubles]:
    return at_once(
        lambda form: values_of(read_run(base, form), base.tensors[form.name].entry.dtype), forms
    )


def _moved(base: Checkpoint, sample: BaseSample, form: TensorForm) -> str | None:
    """The experts of one layer that another place of the new base has; None if each is in its own."""
    rows, width = form.base_shape[0], min(COLUMNS, form.base_shape[1])
    old = values_of(sample.columns[form.name], form.base).reshape(rows, width)
    new = values_of(read_columns(base, form), base.tensors[form.name].entry.dtype)
    cosines = row_cosines(old, new.reshape(rows, width))
    if cosines is None:
        return None
    places = [f"{expert} is at {place}" for expert, place in moved_rows(cosines)]
    more = f" and {len(places) - 8} more" if len(places) > 8 else ""
    return f"{form.name}: {', '.join(places[:8])}{more}" if places else None


def _fits(base: Checkpoint, form: TensorForm) -> bool:
    """Whether the new base has a float tensor of that name and shape."""
    source = base.tensors.get(form.name)
    return source is not None and source.entry.shape == form.base_shape and source.entry.dtype.is_float


def _median(values: Iterable[float | None]) -> float | None:
    """The middle of what is known, all of it finite. numpy's would first import its masked arrays."""
    known = sorted(value for value in values if value is not None)
    return (known[(len(known) - 1) // 2] + known[len(known) // 2]) / 2 if known else None
