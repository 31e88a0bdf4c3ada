"""How well a model foretells text: bits per byte, perplexity, and whether its logits are numbers.

Bits per byte are held against bytes of UTF-8, so they can be compared between tokenizers; perplexity,
per token, can't.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import UsageError
from pipeline.progress import Progressing, silent
from pipeline.quality.estimates import by_set, exponential, ratio
from pipeline.quality.logits import Head
from pipeline.quality.report import Measurement
from pipeline.quality.subject import Subject
from pipeline.quality.texts import TextSet
from pipeline.quality.windows import DEFAULT_LENGTH, Window, batches, rolling_windows

if TYPE_CHECKING:
    import torch

DEFAULT_BATCH = 8


@dataclass(frozen=True, slots=True)
class DocumentScore:
    """What a model made of one document.

    data: the text set's name. nbytes: in UTF-8. nats: negative log-likelihood of all tokens. finite: of
    `logits` logits, how many were finite numbers.
    """

    data: str
    document: int
    nbytes: int
    tokens: int
    nats: float
    finite: int
    logits: int

    @property
    def bits_per_byte(self) -> float:
        """Bits that the model needs for a byte of this document."""
        return self.nats / math.log(2) / self.nbytes


def measure_text(
    subject: Subject,
    texts: TextSet,
    *,
    window: int | None = None,
    batch: int = DEFAULT_BATCH,
    progress: Progressing = silent,
) -> list[DocumentScore]:
    """What the model makes of each document; `text_figures` makes figures of it.

    window: tokens, the model's context or 2048 unless said, whichever is less. batch: windows at once,
    of short ones. The same arguments give the same numbers on the same machine. Raises UsageError.
    """
    length = window_length(subject, window)
    if batch < 1:
        raise UsageError(f"a batch of {batch} holds nothing", hint="use --batch 1 or more")
    ids = [tokenize(subject, document) for document in texts.documents]
    sizes = [len(document.encode()) for document in texts.documents]
    windows = [
        each
        for n, tokens in enumerate(ids)
        for each in rolling_windows(n, tokens, subject.prefix, length)
    ]
    nats, finite = np.zeros(len(ids)), np.zeros(len(ids), np.int64)
    head = Head(subject.model)
    with progress(f"read {texts.name}", texts.nbytes) as advance:
        for rows in batches(windows, batch, size=lambda row: len(row.inputs)):
            of = np.repeat([row.document for row in rows], [len(row.targets) for row in rows])
            found = _score(head, rows)
            np.add.at(nats, of, found[0])
            np.add.at(finite, of, found[1])
            advance(sum(_bytes_of(row, sizes[row.document], len(ids[row.document])) for row in rows))
    return [
        DocumentScore(
            texts.name,
            n,
            sizes[n],
            len(ids[n]),
            float(nats[n]),
            int(finite[n]),
            len(ids[n]) * head.width,
        )
        for n in range(len(ids))
    ]


def text_figures(scores: Sequence[DocumentScore]) -> dict[str, Measurement]:
    """bits_per_byte, perplexity and finite of each text set, and over all of them."""
    figures: dict[str, Measurement] = {}
    for suffix, some in by_set(scores).items():
        nats = [score.nats for score in some]
        nbytes, tokens = [score.nbytes for score in some], [score.tokens for score in some]
        finite = ratio([score.finite for score in some], [score.logits for score in some])
        figures[f"bits_per_byte{suffix}"] = ratio(nats, nbytes, unit=math.log(2))
        figures[f"perplexity{suffix}"] = exponential(ratio(nats, tokens))
        figures[f"finite{suffix}"] = Measurement(finite.value, None, finite.count)
    return figures


def window_length(subject: Subject, window: int | None) -> int:
    """Tokens of a window: as said, else the model's context, at most 2048. Raises UsageError."""
    if window is None:
        return min(subject.context, DEFAULT_LENGTH)
    if not 1 <= window <= subject.context:
        what = f"a window of {window} tokens, for a context of {subject.context}"
        raise UsageError(what, where=subject.location, hint=f"use 1 to {subject.context}")
    return window


def tokenize(subject: Subject, text: str) -> array[int]:
    """The ids of a text, with no special token before or after it."""
    ids = subject.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return array("i", ids)  # a list would take nine times as much


def _bytes_of(window: Window, nbytes: int, tokens: int) -> int:
    """A window's share of its document's bytes; the shares of all windows make the document."""
    end = window.begin + len(window.targets)
    return nbytes * end // tokens - nbytes * window.begin // tokens


def _score(head: Head, windows: Sequence[Window]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """For every target of `windows`: its negative log-likelihood, and how many logits are finite."""
    import torch

    states = head.read(windows)
    targets = torch.tensor([each for window in windows for each in window.targets], device=states.device)
    nats = torch.empty(
        len(targets), dtype=torch.float64
    )  # made first: what is kept between large blocks
    finite = torch.empty(len(targets), dtype=torch.int64)  # that come and go would tear memory to pieces
    for piece in head.chunks(states):
        logits = head.logits(states[piece])
        nats[piece] = (logits.logsumexp(1) - logits.gather(1, targets[piece, None])[:, 0]).double().cpu()
        finite[piece] = _finite(logits).cpu()
    return nats.numpy(), finite.numpy()


def _finite(logits: torch.Tensor) -> torch.Tensor:
    """How many logits of each row are finite; one sum is enough where all are."""
    import torch

    if bool(logits.sum(1).isfinite().all()):
        return torch.full((len(logits),), logits.shape[1])
    return logits.isfinite().sum(1)
