"""How far a model's next-token distribution is from a reference's, position by position.

KL(reference ‖ model) in nats, in float64: figures as small as those of a good quantisation (0.0002) are
right to four digits. Distributions over different vocabularies are held against each other on the
tokens that both have, each made to sum to one on them; a token is the same if it stands for the same
bytes. The share of the reference's probability that lies on these tokens is reported, and so is the
share of positions that could be compared. Both models are in memory at once: they meet at every
position, and neither's logits are kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import Mismatch
from pipeline.progress import Progressing, silent
from pipeline.quality.estimates import by_set, ratio
from pipeline.quality.likelihood import DEFAULT_BATCH, tokenize, window_length
from pipeline.quality.logits import Head
from pipeline.quality.pairing import Pair, Read, pair_windows
from pipeline.quality.report import Measurement
from pipeline.quality.spelling import Vocabulary, read_vocabulary, token_ends
from pipeline.quality.subject import Subject
from pipeline.quality.texts import TextSet
from pipeline.quality.windows import batches

if TYPE_CHECKING:
    import torch

MIN_COMPARED = 0.25  # of all positions
MIN_SHARED = 0.5  # of the reference's probability


@dataclass(frozen=True, slots=True)
class DocumentDivergence:
    """How far the model is from the reference on one document.

    data: the text set's name. tokens: the model's positions. kl: of each of those that could be
    compared, in nats. same_top: at how many both hold the same token likeliest. shared: the reference's
    probability of tokens that both have, summed over the compared positions.
    """

    data: str
    document: int
    tokens: int
    kl: NDArray[np.float64]
    same_top: int
    shared: float


def measure_divergence(
    subject: Subject,
    reference: Subject,
    texts: TextSet,
    *,
    window: int | None = None,
    batch: int = DEFAULT_BATCH,
    progress: Progressing = silent,
) -> list[DocumentDivergence]:
    """How far `subject` is from `reference` on each document; `divergence_figures` makes figures of it.

    window, batch: see `measure_text`; the shorter of both contexts counts. Raises Mismatch if the
    tokenizers have too little in common: under a quarter of the positions, or half of the probability.
    """
    length = min(window_length(subject, window), window_length(reference, window))
    ours, theirs = read_vocabulary(subject.tokenizer), read_vocabulary(reference.tokenizer)
    pairs: list[Pair] = []
    counts: list[int] = []
    for n, text in enumerate(texts.documents):
        model = _read(subject, ours, text)
        counts.append(len(model.ids))
        pairs += pair_windows(n, model, _read(reference, theirs, text), length)
    compared = sum(len(pair.ours) for pair in pairs)
    if compared < MIN_COMPARED * sum(counts):
        share = f"{compared} of {sum(counts)} positions of {texts.name} can be compared"
        raise _strangers(share, subject, reference)
    meeting = Meeting.of(subject, reference, ours, theirs)
    kl: list[list[NDArray[np.float64]]] = [[] for _ in counts]
    same, shared = np.zeros(len(counts), np.int64), np.zeros(len(counts))
    with progress(f"compare on {texts.name}", 4 * compared) as advance:
        for rows in batches(pairs, batch, size=lambda pair: pair.longest):
            of = np.repeat([row.model.document for row in rows], [len(row.ours) for row in rows])
            found = meeting.compare(rows)
            np.add.at(same, of, found.same_top)
            np.add.at(shared, of, found.shared)
            for document in np.unique(of):
                kl[document].append(found.kl[of == document])
            advance(4 * len(of))
    if shared.sum() < MIN_SHARED * compared:
        share = (
            f"{shared.sum() / compared:.0%} of the reference's probability is on tokens that both have"
        )
        raise _strangers(share, subject, reference)
    return [
        DocumentDivergence(
            texts.name, n, count, np.concatenate([*kl[n], np.zeros(0)]), int(same[n]), float(shared[n])
        )
        for n, count in enumerate(counts)
    ]


def divergence_figures(found: Sequence[DocumentDivergence]) -> dict[str, Measurement]:
    """kl (mean, median, p99, compared, shared) and same_top of each text set, and over all of them."""
    figures: dict[str, Measurement] = {}
    for suffix, some in by_set(found).items():
        every = np.concatenate([each.kl for each in some])
        counts = [len(each.kl) for each in some]
        compared = ratio(counts, [each.tokens for each in some])
        shared = ratio([each.shared for each in some], counts)
        middle, high = np.percentile(every, [50, 99]) if len(every) else (math.nan, math.nan)
        figures |= {
            f"kl{suffix}.mean": ratio([float(each.kl.sum()) for each in some], counts),
            f"kl{suffix}.median": Measurement(float(middle), None, len(every)),
            f"kl{suffix}.p99": Measurement(float(high), None, len(every)),
            f"kl{suffix}.compared": Measurement(compared.value, None, compared.count),
            f"kl{suffix}.shared": Measurement(shared.value, None, shared.count),
            f"same_top{suffix}": ratio([each.same_top for each in some], counts),
        }
    return figures


def _read(subject: Subject, vocabulary: Vocabulary, text: str) -> Read:
    ids = tokenize(subject, text)
    return Read(ids, token_ends(subject.tokenizer, vocabulary, text, ids), subject.prefix)


def _strangers(what: str, subject: Subject, reference: Subject) -> Mismatch:
    return Mismatch(
        [what],
        where=f"{subject.location} and {reference.location}",
        hint="compare bits_per_byte instead, or take a reference with a similar tokenizer",
        noun="tokenizer",
    )


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
    def of(cls, subject: Subject, reference: Subject, ours: Vocabulary, theirs: Vocabulary) -> Meeting:
        """The two, with what their vocabularies share. Raises Mismatch if that is nothing."""
        import torch

        heads = Head(subject.model), Head(reference.model)
        if ours.ids == theirs.ids and heads[0].width == heads[1].width:
            return cls(*heads, None)
        keys = sorted(ours.ids.keys() & theirs.ids.keys())
        if len(keys) < 2:
            raise _strangers("no tokens in common", subject, reference)
        columns = (
            torch.tensor([side.ids[key] for key in keys], device=subject.device)
            for side in (ours, theirs)
        )
        return cls(*heads, (next(columns), next(columns)))

    def compare(self, pairs: Sequence[Pair]) -> Compared:
        """Every position that `pairs` compare, pair after pair."""
        mine = _select(self.model.read([p.model for p in pairs]), _places(pairs, "model", "ours"))
        other = self.reference.read([p.reference for p in pairs])
        other = _select(other, _places(pairs, "reference", "theirs"))
        found = [self._chunk(mine[piece], other[piece]) for piece in self._chunks(mine)]
        kl, same, shared = (np.concatenate(each) for each in zip(*found, strict=True))
        return Compared(kl, same, shared)

    def _chunks(self, states: torch.Tensor) -> Iterator[slice]:
        widest = max((self.model, self.reference), key=lambda head: head.width)
        return widest.chunks(states, itemsize=8)

    def _chunk(self, mine: torch.Tensor, other: torch.Tensor) -> tuple[NDArray[np.generic], ...]:
        import torch

        q = self.model.logits(mine)
        p = self.reference.logits(other).to(q.device)
        with torch.inference_mode():
            top_q, top_p = q.argmax(1), p.argmax(1)
            shared = torch.ones(len(q), dtype=torch.float64)
            if self.columns is not None:
                ours, theirs = self.columns
                top_q, top_p = _rank(top_q, ours, -1), _rank(top_p, theirs, -2)
                whole = p.double().logsumexp(1)
                q, p = q[:, ours], p[:, theirs]
                shared = (p.double().logsumexp(1) - whole).exp()
            kl = divergence(p, q)
        return tuple(each.cpu().numpy() for each in (kl, top_q == top_p, shared))


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """KL(softmax(p) ‖ softmax(q)) of each row, in nats, in float64.

    The difference of two large numbers: float32 would leave an error of some 1e-6.
    """
    import torch

    log_p, log_q = (logits.to(torch.float64, copy=True) for logits in (p, q))
    for logits in (log_p, log_q):  # in place: a chunk of them is all the memory that there should be
        logits.sub_(logits.logsumexp(1, keepdim=True))
    difference = log_q.neg_().add_(log_p)
    share = log_p.exp_()
    difference.masked_fill_(share == 0, 0)  # 0 · log 0 is 0, also where a logit is -inf
    return difference.mul_(share).sum(1)


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
