"""Under which names two sides meet: a base, and a post or a delta.

Names that are equal meet. What is then left over may be the same under another name (a prefix, another
version of transformers), may be a head that one side has by its tie, a table that is computed anew, or
something that only one side has. What no rule explains stays over, to be refused by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace

from pipeline.checkpoints.buffers import is_buffer
from pipeline.checkpoints.checkpoint import Checkpoint, Source
from pipeline.checkpoints.header import Entry
from pipeline.checkpoints.policy import has_text_part
from pipeline.checkpoints.stacked import with_experts_as
from pipeline.checkpoints.ties import Head, Names, Shape, head_beside, names_of
from pipeline.errors import Mismatch
from pipeline.tensors.dtypes import DType

Forms = Mapping[str, tuple[DType, Shape]]


@dataclass(frozen=True)
class Meeting:
    """What of base and post belongs together.

    base_names: for names of post (and for `aliases`) that of base's tensor. tied: names of post that
    another tensor of base stands for, as its embedding does for a head, each with what base would call
    it. aliases: names that post gets, with its tensor that is meant: a tied head whose other side is not
    tied. only_post: tensors that the base has nothing for. left_out: tensors of the base that take no
    part: tables that are computed, and what lies beside its text part where post is text alone. over:
    tensors of the base that nothing explains.
    """

    base_names: Mapping[str, str]
    tied: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    only_post: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    over: tuple[str, ...] = ()

    def without_copies(self) -> Meeting:
        """As if base had once what post has once, the names in `aliases` being copies in base."""
        kept = {name: own for name, own in self.base_names.items() if name not in self.aliases}
        return replace(self, base_names=kept, aliases={})

    @property
    def renamed(self) -> dict[str, str]:
        """The names of post whose tensor the base has under another name, ties apart."""
        pairs = self.base_names.items()
        return {name: own for name, own in pairs if own != name and name not in self.tied}


def meet(base: Names, post: Names) -> Meeting:
    """How the tensors of `post` find those of `base`.

    Raises Mismatch for tensors that are parts of fused ones on one side only.
    """
    pairs = {name: name for name in post.shapes if name in base.shapes}
    tied, aliases = _meet_heads(base, post, pairs)
    # What stands for a head is itself still to be met.
    over = _unmet(base, (own for name, own in pairs.items() if name not in tied))
    new = _unmet(post, pairs)
    left_out = [name for name in over if is_buffer(name, base.shapes[name])]
    carried = [name for name in new if is_buffer(name, post.shapes[name])]
    over = [name for name in over if name not in left_out]
    new = [name for name in new if name not in carried]
    if over and new:
        pairs |= _rename(base, post, over, new)
    tied |= _meet_copies(base, post, pairs, aliases, carried)
    met = {*pairs.values(), *left_out}
    over = [name for name in base.shapes if name not in met]
    beside = _beside_text(base, post, over)
    over = [name for name in over if name not in beside]
    if not over and _are_alike(base, post, pairs):
        lonely = (name for name in _unmet(post, pairs) if not _is_lost_head(base, post, name))
        carried = list(dict.fromkeys((*carried, *lonely)))
    return Meeting(pairs, tied, aliases, tuple(carried), (*left_out, *beside), tuple(over))


def _unmet(side: Names, met: Iterable[str]) -> list[str]:
    known = set(met)
    return [name for name in side.shapes if name not in known]


def _meet_copies(
    base: Names, post: Names, pairs: dict[str, str], aliases: dict[str, str], apart: Collection[str]
) -> dict[str, str]:
    """Let what one side has once more meet what the other has once, as T5 and BERT lie in pickles.

    apart: names of post that need no counterpart. Returns the names of post that a tensor of base stands
    for under another name, as `Meeting.tied` has them; what base has once more, `aliases` gets.
    """
    names = {own: name for name, own in pairs.items() if name in post.shapes}
    found = {}
    for name in (each for each in _unmet(post, pairs) if each not in apart):
        if (source := post.copied(name, names.values())) is not None:
            found[name] = pairs[source]
    for own in _unmet(base, pairs.values()):
        if (source := base.copied(own, names)) is not None:
            pairs[own], aliases[own] = own, names[source]
    pairs |= found
    return {name: name for name in found}


def _beside_text(base: Names, post: Names, over: list[str]) -> list[str]:
    """Which of `over` a multimodal base has beside its text part, where post is such a part alone."""
    is_text = post.config is not None and not has_text_part(post.config)
    if not over or not is_text or not has_text_part(base.config):
        return []
    from pipeline.checkpoints.architecture import Architecture

    ours, theirs = Architecture.of(base.config), Architecture.of(post.config)
    return ours.beside(theirs, over) if ours and theirs else []


def _are_alike(base: Names, post: Names, pairs: Mapping[str, str]) -> bool:
    """Whether all pairs have the same shapes, but for their rows.

    Else they are of two architectures, and every name that only one has is a part of the evidence.
    """
    return all(
        _same_rest(base.shapes[own], post.shapes.get(n, base.shapes[own])) for n, own in pairs.items()
    )


def _is_lost_head(base: Names, post: Names, name: str) -> bool:
    """Whether `name` is post's head, and base has none, tied or not."""
    return name == post.head_name() and base.head() is Head.NONE


def _meet_heads(
    base: Names, post: Names, pairs: dict[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """Give the head that one side lacks what stands for it there; returns `tied` and `aliases`."""
    ours, theirs = base.head_name(), post.head_name()
    if ours is None and theirs is not None and base.head() is Head.TIED:
        embedding = base.embedding_of(theirs)
        if embedding is not None and _same_rest(base.shapes[embedding], post.shapes[theirs]):
            pairs[theirs] = embedding
            return {theirs: head_beside(embedding, theirs, post.embedding_of(theirs))}, {}
    if ours is not None and theirs is None and post.head() is Head.TIED:
        own = post.embedding_of(ours)
        if own is not None and _same_rest(base.shapes[ours], post.shapes[own]):
            name = head_beside(own, ours, base.embedding_of(ours))
            pairs[name] = ours
            return {}, {name: own}
    return {}, {}


def _same_rest(one: Shape, other: Shape) -> bool:
    """Whether both are matrices over the same width; the vocabulary may have grown."""
    return len(one) == len(other) and one[1:] == other[1:]


def _rename(base: Names, post: Names, over: list[str], new: list[str]) -> dict[str, str]:
    """Names of post with those of base for the same parameter, as transformers maps both."""
    from pipeline.checkpoints.architecture import Architecture

    ours, theirs = Architecture.of(base.config), Architecture.of(post.config)
    if ours is None or theirs is None:
        return {}
    mine = ours.rename(over, ours.prefix_for(theirs))
    yours = theirs.rename(new, theirs.prefix_for(ours))
    fused = {each.key for side in (mine, yours) for each in side.values() if each.fused}
    parts = [
        f"{name} is a part of {each.key[1]}, which {where} has as one"
        for side, other, where in ((mine, yours, "post"), (yours, mine, "base"))
        for name, each in side.items()
        if each.fused and any(o.key == each.key and not o.fused for o in other.values())
    ]
    if parts:
        raise Mismatch(
            parts,
            where=f"{base.location} and {post.location}",
            hint="load and save one of them with the version of transformers that wrote the other",
        )
    own, wanted = (
        {key: name for name, key in keys.items() if key not in fused and counts[key] == 1}
        for keys in ({name: each.key for name, each in side.items()} for side in (mine, yours))
        for counts in [Counter(keys.values())]  # what two names stand for is not guessed at
    )
    return {name: own[key] for key, name in wanted.items() if key in own}


@dataclass(frozen=True, slots=True)
class NameNotes:
    """What was done to names, for the report.

    renamed: tensors that a delta calls otherwise. tied: tensors that the embedding stood for on a side.
    only_post: carried whole, for no base has them. left_out: tables that are computed anew and what lies
    beside a text part, of which the new base's stay, and copies of the embedding. untied: whether the
    result's head is its own though the new base's is not.
    """

    renamed: tuple[str, ...] = ()
    tied: tuple[str, ...] = ()
    only_post: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    untied: bool = False

    @classmethod
    def of(cls, meeting: Meeting) -> NameNotes:
        """What a meeting of a base and a post comes to."""
        return cls(
            tuple(f"{own} is {name} in post" for name, own in meeting.renamed.items()),
            (*meeting.tied, *meeting.aliases),
            meeting.only_post,
            meeting.left_out,
        )


# -- checkpoints as the other side sees them ----------------------------------------------------------


def bring_together(base: Checkpoint, post: Checkpoint) -> tuple[Checkpoint, Checkpoint, NameNotes]:
    """Both under post's names; what only post has, the base has without rows.

    Raises Mismatch for tensors that are fused on one side. What else does not fit is left as it is.
    """
    if base.tensors.keys() == post.tensors.keys():
        return base, post, NameNotes()
    theirs = names_of(post)
    base, lines = with_experts_as(base, theirs)
    meeting = meet(names_of(base), theirs)
    post = with_aliases(post, meeting.aliases)
    notes = NameNotes.of(meeting)
    notes = replace(notes, renamed=(*lines, *notes.renamed))
    return seen_from_post(base, meeting, forms_of(post)), post, notes


def as_base(model: Checkpoint, names: Names, lacking: Forms) -> Checkpoint:
    """`model` as the base of a delta with these names; as it is where it can't be that.

    lacking: formats and shapes of what the delta's own base lacked.

    Raises Mismatch for tensors that are fused on one side.
    """
    model, _ = with_experts_as(model, names)
    ours = names_of(model)
    meeting = meet(ours, names)
    own = meeting.base_names
    for alias, name in meeting.aliases.items():
        if ours.copied(own[alias], [own.get(name, "")]) is None:
            return model  # it has a head of its own, and the delta's base had none
    return seen_from_post(model, meeting.without_copies(), lacking)


def seen_from_post(base: Checkpoint, meeting: Meeting, post: Forms) -> Checkpoint:
    """`base` under post's names, the same bytes; what it lacks has no rows there.

    post: formats and shapes by name of what it may lack.
    """
    tensors = {name: base.tensors[own] for name, own in meeting.base_names.items()}
    for name in (each for each in meeting.only_post if each in post):
        tensors[name] = absent(name, *post[name])
    over = {name: base.tensors[name] for name in meeting.over}
    return with_tensors(base, {**tensors, **over})


def with_aliases(model: Checkpoint, aliases: Mapping[str, str]) -> Checkpoint:
    """`model` with some of its tensors under further names, too: the same bytes."""
    extra = {name: model.tensors[own] for name, own in aliases.items()}
    return with_tensors(model, {**model.tensors, **extra}) if extra else model


def with_tensors(model: Checkpoint, tensors: Mapping[str, Source]) -> Checkpoint:
    """`model` with these tensors, each called as it stands there."""
    named = {n: replace(s, entry=replace(s.entry, name=n)) for n, s in tensors.items()}
    return replace(model, tensors=named)


def forms_of(model: Checkpoint) -> Forms:
    """Format and shape of each tensor."""
    return {name: (s.entry.dtype, s.entry.shape) for name, s in model.tensors.items()}


def absent(name: str, dtype: DType, shape: Shape) -> Source:
    """A tensor that is not there: one of that form but without rows, which no byte is read of."""
    return Source(Entry(name, dtype, (0, *shape[1:]), 0), 0)
