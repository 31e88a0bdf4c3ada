"""How far a model's next-token distribution is from a reference's, position by position.

KL(reference ‖ model) in nats; one as small as that of a good quantisation (0.0002) is right to four
digits. Distributions over different vocabularies are held against each other on the tokens that both
have, each made to sum to one on them; a token is the same if it stands for the same bytes. The share of
the reference's probability that lies on these tokens is reported, and so is the share of positions that
could be compared. Both models are in memory at once: they meet at every position, and neither's logits
are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.progress import Progressing, silent
from pipeline.quality.estimates import by_set, ratio
from pipeline.quality.likelihood import DEFAULT_BATCH, tokenize, window_length
from pipeline.quality.meeting import Common, Meeting, strangers
from pipeline.quality.pairing import pair_windows
from pipeline.quality.report import Measurement
from pipeline.quality.subject import Subject
from pipeline.quality.texts import TextSet
from pipeline.quality.windows import batches

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
    readings = [_tokenize(subject, reference, text) for text in texts.documents]
    counts = [len(ours) for ours, _ in readings]
    common = Common.of(subject, reference, readings)
    pairs = [
        pair
        for n, (text, (ours, theirs)) in enumerate(zip(texts.documents, readings, strict=True))
        for pair in pair_windows(n, *common.reads(text, ours, theirs), length)
    ]
    compared = sum(len(pair.ours) for pair in pairs)
    if compared < MIN_COMPARED * sum(counts):
        share = f"{compared} of {sum(counts)} positions of {texts.name} can be compared"
        raise strangers(share, subject, reference)
    meeting = Meeting.of(subject, reference, common)
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
        raise strangers(share, subject, reference)
    return [
        DocumentDivergence(
            texts.name, n, count, np.concatenate([*kl[n], np.zeros(0)]), int(same[n]), float(shared[n])
        )
        for n, count in enumerate(counts)
    ]


def _tokenize(subject: Subject, reference: Subject, text: str) -> tuple[Sequence[int], Sequence[int]]:
    """The text's ids for both; the very same where they share a tokenizer."""
    ours = tokenize(subject, text)
    is_shared = subject.tokenizer is reference.tokenizer
    return ours, ours if is_shared else tokenize(reference, text)


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
