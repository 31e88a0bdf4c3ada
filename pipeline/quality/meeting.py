"""Two models at the same positions of a text: tokens aligned, distributions compared, nothing kept.

A batch goes through both bodies; both heads then see the same few positions at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Mismatch
from pipeline.quality.logits import Head
from pipeline.quality.pairing import Pair, Read
from pipeline.quality.spelling import Vocabulary, read_vocabulary, token_ends
from pipeline.quality.subject import Subject

if TYPE_CHECKING:
    import torch

Ids = Sequence[int]


def strangers(what: str, subject: Subject, reference: Subject) -> Mismatch:
    """The error for tokenizers that have too little in common, `what` saying how little."""
    return Mismatch(
        [what],
        where=f"{subject.location} and {reference.location}",
        hint="compare bits_per_byte instead, or take a reference with a similar tokenizer",
        noun="tokenizer",
    )


@dataclass(frozen=True, slots=True)
class Common:
    """What two tokenizers have in common. vocabularies: None if they are alike in all that matters."""

    subject: Subject
    reference: Subject
    vocabularies: tuple[Vocabulary, Vocabulary] | None

    @classmethod
    def of(cls, subject: Subject, reference: Subject, readings: Sequence[tuple[Ids, Ids]]) -> Common:
        """Compare the tokenizers, and how they read the texts: `readings`, the ids on both sides."""
        ours, theirs = subject.tokenizer, reference.tokenizer
        is_same = ours is theirs or ours.get_vocab() == theirs.get_vocab()
        if is_same and all(left == right for left, right in readings):
            return cls(subject, reference, None)  # as a rule; what is not made takes no memory
        return cls(subject, reference, (read_vocabulary(ours), read_vocabulary(theirs)))

    def reads(self, text: str, ours: Ids, theirs: Ids) -> tuple[Read, Read]:
        """The text as both read it."""
        ends: tuple[Ids, Ids] = (range(len(ours)), range(len(theirs)))
        if self.vocabularies is not None:
            left, right = self.vocabularies
            ends = (
                token_ends(self.subject.tokenizer, left, text, ours),
                token_ends(self.reference.tokenizer, right, text, theirs),
            )
        return Read(ours, ends[0], self.subject.prefix), Read(theirs, ends[1], self.reference.prefix)


@dataclass(frozen=True, slots=True)
class Compared:
    """Of each position of a batch: KL in nats, whether the top is the same, shared probability."""

    kl: NDArray[np.float64]
    same_top: NDArray[np.bool_]
    shared: NDArray[np.float64]


@dataclass(frozen=True)
class Meeting:
    """Two models on one batch. columns: the ids of the shared tokens on each side; None: all, alike."""

    model: Head
    reference: Head
    columns: tuple[torch.Tensor, torch.Tensor] | None

    @classmethod
    def of(cls, subject: Subject, reference: Subject, common: Common) -> Meeting:
        """The two, with what their vocabularies share. Raises Mismatch if that is nothing."""
        import torch

        heads = Head(subject.model), Head(reference.model)
        sides = common.vocabularies
        if sides is None and heads[0].width == heads[1].width:
            return cls(*heads, None)
        ours, theirs = sides or (read_vocabulary(each.tokenizer) for each in (subject, reference))
        keys = sorted(ours.ids.keys() & theirs.ids.keys())
        if len(keys) < 2:
            raise strangers("no tokens in common", subject, reference)
        columns = (
            torch.tensor([side.ids[key] for key in keys], device=subject.device)
            for side in (ours, theirs)
        )
        return cls(*heads, (next(columns), next(columns)))

    def compare(self, pairs: Sequence[Pair]) -> Compared:
        """Every position that `pairs` compare, pair after pair."""
        import torch

        mine = _select(self.model.read([p.model for p in pairs]), _places(pairs, "model", "ours"))
        other = self.reference.read([p.reference for p in pairs])
        other = _select(other, _places(pairs, "reference", "theirs"))
        found = torch.empty(3, len(mine), dtype=torch.float64)  # made first: see likelihood
        for piece in self._chunks(mine):
            found[:, piece] = self._chunk(mine[piece], other[piece]).cpu()
        kl, same, shared = found.numpy()
        return Compared(kl, same.astype(bool), shared)

    def _chunks(self, states: torch.Tensor) -> Iterator[slice]:
        widest = max((self.model, self.reference), key=lambda head: head.width)
        return widest.chunks(states)

    def _chunk(self, mine: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        """KL, whether the top is the same, shared probability: a row each."""
        import torch

        q = self.model.logits(mine)
        p = self.reference.logits(other).to(q.device)
        with torch.inference_mode():
            top_q, top_p = q.argmax(1), p.argmax(1)
            shared = torch.ones(len(q), dtype=torch.float64, device=q.device)
            if self.columns is not None:
                ours, theirs = self.columns
                top_q, top_p = _rank(top_q, ours, -1), _rank(top_p, theirs, -2)
                whole = p.logsumexp(1)
                q, p = q[:, ours], p[:, theirs]
                shared = (p.logsumexp(1) - whole).exp().double()
            return torch.stack([divergence(p, q), (top_q == top_p).double(), shared])


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(softmax(p) ‖ softmax(q)) of each row of logits, in nats; overwrites `p` and `q`.

    As E[p - q] + log(Z(q) / Z(p)), each logit taken relative to its row's largest, the quotient as one
    and a small difference: nothing large is subtracted, so float32 gives a KL of 0.0002 to four digits.
    """
    p -= p.amax(1, keepdim=True)
    q -= q.amax(1, keepdim=True)
    difference = p - q
    share = p.exp_()
    total = share.sum(1).double()
    change = q.exp_().sub_(share).sum(1).double() / total
    difference.masked_fill_(share == 0, 0)  # 0 · log 0 is 0, also where a logit is -inf
    return difference.mul_(share).sum(1).double() / total + change.log1p()


def _rank(tops: torch.Tensor, columns: torch.Tensor, lacking: int) -> torch.Tensor:
    """Which of the shared tokens each top is; `lacking` for one that is not shared."""
    import torch

    size = int(max(columns.max(), tops.max())) + 1
    ranks = torch.full((size,), lacking, device=columns.device)
    ranks[columns] = torch.arange(len(columns), device=columns.device)
    return ranks[tops]


def _places(pairs: Sequence[Pair], side: str, which: str) -> list[int]:
    """Where the compared positions of all pairs are among the states that were read."""
    places: list[int] = []
    at = 0
    for pair in pairs:
        places += [at + position for position in getattr(pair, which)]
        at += len(getattr(pair, side).targets)
    return places


def _select(states: torch.Tensor, places: Sequence[int]) -> torch.Tensor:
    return states if len(places) == len(states) else states[list(places)]
