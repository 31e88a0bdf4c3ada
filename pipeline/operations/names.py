"""The names under which a sum is made: those of a post that is restored, else the new base's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from pipeline.checkpoints.alignment import is_absent
from pipeline.checkpoints.buffers import is_buffer
from pipeline.checkpoints.checkpoint import Checkpoint, Source
from pipeline.checkpoints.meeting import (
    NameNotes,
    absent,
    as_base,
    meet,
    with_tensors,
)
from pipeline.checkpoints.policy import around_text, has_text_part
from pipeline.checkpoints.stacked import with_experts_as
from pipeline.checkpoints.ties import (
    HEAD,
    Head,
    Names,
    are_equal,
    names_of,
    tied_by_config,
)
from pipeline.deltas.names import lacking, names_of_delta
from pipeline.errors import Mismatch
from pipeline.operations.addends.addend import Addend
from pipeline.operations.addends.mapped import MappedAddend, Nothing
from pipeline.operations.addends.stored import StoredAddend
from pipeline.operations.addends.subtraction import Subtraction

_TIED = (Head.TIED, Head.COPY)


def as_base_of(addend: Addend, model: Checkpoint) -> Checkpoint:
    """`model` under the names of `addend`, as its base would be; as it is where it can't be that."""
    if model.tensors.keys() == addend.tensors.keys():
        return model
    forms = lacking(tensor.record for tensor in addend.tensors.values())
    return as_base(model, names_of_addend(addend), forms)


def names_of_addend(addend: Addend) -> Names:
    """The names of what an addend is a difference of."""
    if isinstance(addend, StoredAddend):
        return names_of_delta(addend.delta)
    shapes = {name: tensor.record.shape for name, tensor in addend.tensors.items()}

    def is_copy(one: str, other: str, may_read: bool) -> bool:
        sides = (addend.base, addend.post) if isinstance(addend, Subtraction) else ()
        equal = [are_equal(side, one, other, may_read=may_read) for side in sides]
        return bool(equal) and all(equal)

    return Names(addend.location, shapes, addend.config, is_copy=is_copy)


@dataclass(frozen=True)
class SumNames:
    """New base, old base and addends under the names of the result."""

    base: Checkpoint
    old: Checkpoint | None
    addends: Sequence[Addend]
    notes: NameNotes


def under_own_names(base: Checkpoint, old: Checkpoint | None, addends: Sequence[Addend]) -> SumNames:
    """Everything under the new base's names. old: under those of the first addend.

    Raises Mismatch for what is fused on one side, or carried whole onto a base that has it. What else
    does not fit is left for `fit` to say.
    """
    ours, theirs = names_of(base), [names_of_addend(each) for each in addends]
    if _is_plain(base, addends, ours):
        return SumNames(base, old, addends, NameNotes())
    base, renamed = _within(base, ours, theirs)
    for names in theirs:
        base, lines = with_experts_as(base, names)
        renamed += lines
    ours = names_of(base) if renamed else ours
    sides = (ours, *theirs)
    has_head = any(side.head_name() for side in sides)
    all_tied = has_head and all(side.head() in _TIED for side in sides)
    dropped: list[str] = []
    if all_tied:
        dropped = [name for side in sides if (name := side.head_name())]
        ours, theirs = _without(ours, dropped), [_without(each, dropped) for each in theirs]
    mapping = _Mapping(base, ours, dropped)
    for addend, names in zip(addends, theirs, strict=True):
        mapping.take(addend, names)
    mapping.finish(theirs)
    mapped = [
        MappedAddend(addend, own, mapping.nothing_for(own))
        for addend, own in zip(addends, mapping.own_names, strict=True)
    ]
    heads = [name for name in mapping.tensors if name == HEAD or name.endswith("." + HEAD)]
    untied = bool(heads) and not all_tied and _says_tied(base)
    notes = mapping.notes()
    notes = replace(notes, renamed=(*renamed, *notes.renamed), untied=untied)
    return SumNames(with_tensors(base, mapping.tensors), mapping.see_old(old), mapped, notes)


def _within(
    base: Checkpoint, ours: Names, theirs: Sequence[Names]
) -> tuple[Checkpoint, tuple[str, ...]]:
    """A text model as the text part of the multimodal one that an addend makes of it, if one does.

    Under its own names and config nobody could load it together with what the addend carries whole.
    Returns a line for each tensor that is called otherwise there; none where it stays what it is.
    """
    whole = next((each for each in theirs if has_text_part(each.config)), None)
    if whole is None or whole.config is None or base.config is None or has_text_part(base.config):
        return base, ()
    meeting = meet(ours, whole)
    if not meeting.only_post:
        return base, ()
    found = {name: base.tensors[own] for name, own in meeting.base_names.items()}
    met = set(meeting.base_names.values())
    found |= {name: source for name, source in base.tensors.items() if name not in met}
    config = around_text(whole.config, base.config, tied=ours.says_tied)
    lines = (f"{own} is {name} in the result" for name, own in meeting.renamed.items())
    return replace(with_tensors(base, found), config=config), tuple(lines)


def _is_plain(base: Checkpoint, addends: Sequence[Addend], ours: Names) -> bool:
    """Whether all have the same names, none of which stands for another or is computed anew."""
    if any(addend.tensors.keys() != base.tensors.keys() for addend in addends):
        return False
    forms = (tensor.record for addend in addends for tensor in addend.tensors.values())
    if any(is_absent(form.base_shape, form.shape) for form in forms):
        return False
    has_buffers = any(is_buffer(name, shape) for name, shape in ours.shapes.items())
    may_be_copy = ours.head_name() is not None and tied_by_config(base.config) is not False
    return not has_buffers and not may_be_copy


def _says_tied(base: Checkpoint) -> bool:
    """Whether whoever loads `base` takes its embedding for its head."""
    return tied_by_config(base.config) is True or names_of(base).head() in _TIED


def _without(names: Names, dropped: Sequence[str]) -> Names:
    kept = {name: shape for name, shape in names.shapes.items() if name not in dropped}
    return replace(names, shapes=kept)


@dataclass
class _Mapping:
    """How names of the result come to be, addend by addend.

    tensors: of the new base, by names of the result. own_names: for each addend, what it calls them.
    tied: by names of the result that of the tensor which stands for it in the new base, if one does.
    """

    base: Checkpoint
    ours: Names
    dropped: list[str]
    tensors: dict[str, Source] = field(init=False)
    own_names: list[dict[str, str]] = field(default_factory=list)
    renamed: dict[str, None] = field(default_factory=dict)
    tied: dict[str, str | None] = field(default_factory=dict)
    only_post: dict[str, None] = field(default_factory=dict)
    left_out: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        kept = self.base.tensors.items()
        self.tensors = {name: source for name, source in kept if name in self.ours.shapes}
        self.left_out |= dict.fromkeys(name for name in self.dropped if name in self.base.tensors)

    def take(self, addend: Addend, names: Names) -> None:
        """Find what each tensor of `addend` is called in the result. Raises Mismatch."""
        meeting = meet(self.ours, names)
        own: dict[str, str] = {}
        problems = []
        for name, in_base in meeting.base_names.items():
            if is_buffer(in_base, self.ours.shapes[in_base]):
                self.left_out[in_base] = None
                continue
            result = meeting.tied.get(name, in_base)
            own[result] = meeting.aliases.get(name, name)
            self.tensors[result] = self.base.tensors[in_base]
            record = addend.tensors[own[result]].record
            if is_absent(record.base_shape, record.shape):
                problems.append(f"{result} is carried whole, and the new base has it already")
        self.tied |= {own: meeting.base_names[name] for name, own in meeting.tied.items()}
        self.tied |= dict.fromkeys(meeting.base_names[name] for name in meeting.aliases)
        lines = (f"{own} is {name} in {addend.location}" for name, own in meeting.renamed.items())
        self.renamed |= dict.fromkeys(lines)
        for name in meeting.only_post:
            self._carry(addend, name, own, problems)
        self.left_out |= dict.fromkeys(meeting.left_out)
        unmet = names.shapes.keys() - meeting.base_names.keys() - set(meeting.only_post)
        own |= {name: name for name in sorted(unmet)}
        self.own_names.append(own)
        if problems:
            raise Mismatch(
                problems,
                where=f"{self.base.location} and {addend.location}",
                hint="take these tensors out of the new base, or use a delta that was made on a base "
                "that has them",
            )

    def _carry(self, addend: Addend, name: str, own: dict[str, str], problems: list[str]) -> None:
        """A tensor that the new base lacks: carried if the addend's base lacked it too."""
        record = addend.tensors[name].record
        if not is_absent(record.base_shape, record.shape):
            if is_buffer(name, record.shape):
                self.left_out[name] = None
            else:
                own[name] = name  # a difference to nothing: `fit` says so
            return
        if name in self.only_post:
            problems.append(f"{name} is carried whole by more than one delta")
        self.tensors[name] = absent(name, record.post, record.shape)
        self.only_post[name] = None
        own[name] = name

    def finish(self, sides: Sequence[Names]) -> None:
        """Give each addend that is tied its embedding for a head that another one made necessary."""
        for head, source in self.tied.items():
            for own, names in zip(self.own_names, sides, strict=True):
                if head not in own and source in own and names.head() is Head.TIED:
                    own[head] = own[source]

    def nothing_for(self, own: Mapping[str, str]) -> dict[str, Nothing]:
        """What an addend that calls its tensors `own` need not have: computed, or another's alone."""
        free = [*self.left_out, *self.only_post]
        entries = {n: replace(self.tensors[n].entry, name=n) for n in free if n in self.tensors}
        return {name: Nothing.at(entry) for name, entry in entries.items() if name not in own}

    def see_old(self, old: Checkpoint | None) -> Checkpoint | None:
        """The old base, which is under the first addend's names, under those of the result."""
        if old is None:
            return None
        own = self.own_names[0]
        empty = {n: absent(n, s.entry.dtype, s.entry.shape) for n, s in self.tensors.items()}
        found = {n: old.tensors[each] for n, each in own.items() if each in old.tensors}
        return with_tensors(old, {**empty, **found})

    def notes(self) -> NameNotes:
        """What it came to."""
        return NameNotes(
            tuple(self.renamed), tuple(self.tied), tuple(self.only_post), tuple(self.left_out)
        )
