"""Multiple choice: which of several texts a model holds likeliest behind a prompt.

The log-likelihood of a choice is that of its tokens after the prompt's, both tokenized together and cut
where the prompt alone would end, as EleutherAI's harness does it. Plain, the longer text has the worse
odds; per byte of the choice it has not. Both are kept.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from pipeline.quality.items import Item
from pipeline.quality.prompts import Prompt, continuation, make_prompt
from pipeline.quality.questions import Question
from pipeline.quality.rectangles import groups, pad_id, rectangle
from pipeline.quality.subject import Subject


@dataclass(frozen=True, slots=True)
class _Row:
    """A prompt with one choice. choice_tokens: how many of the ids, at their end, are the choice's."""

    number: int
    choice: int
    ids: list[int]
    choice_tokens: int
    truncated: bool
    nbytes: int


def choose_answers(
    subject: Subject,
    questions: Sequence[Question],
    *,
    data: str,
    batch: int,
    advance: Callable[[int], None],
) -> list[Item]:
    """What the model chooses of each question's choices, judged; in their order.

    A prompt that does not fit into the context with its choice loses its beginning. batch: choices at
    once, of short ones. advance: is told of the bytes of prompts that were read. Raises CorruptFile for
    a chat template that fails.
    """
    prompts = [make_prompt(subject.tokenizer, question) for question in questions]
    rows = [
        _row(subject, number, question, prompts[number], choice)
        for number, question in enumerate(questions)
        for choice in range(len(question.choices))
    ]
    rows.sort(key=lambda row: (len(row.ids), row.number, row.choice), reverse=True)
    found: dict[tuple[int, int], float] = {}
    for group in groups(rows, batch, lambda row: len(row.ids)):
        for row, value in zip(group, _log_likelihoods(subject, group), strict=True):
            found[row.number, row.choice] = value
        advance(sum(row.nbytes for row in group))
    cut = {row.number for row in rows if row.truncated}
    return [
        _judge(
            question,
            [found[number, choice] for choice in range(len(question.choices))],
            data=data,
            prompt=prompts[number].text,
            truncated=number in cut,
        )
        for number, question in enumerate(questions)
    ]


def _row(subject: Subject, number: int, question: Question, prompt: Prompt, choice: int) -> _Row:
    text = continuation(subject.tokenizer, question, prompt, question.choices[choice])
    # A space at the prompt's end belongs to the token that follows it, in most vocabularies.
    trimmed = prompt if prompt.is_chat else Prompt(prompt.text.rstrip(), is_chat=False)
    text = prompt.text[len(trimmed.text) :] + text
    before = len(trimmed.ids(subject.tokenizer))
    ids = trimmed.ids(subject.tokenizer, text)
    if before == 0:  # nothing to predict the first token from
        ids, before = [pad_id(subject.tokenizer), *ids], 1
    count = max(1, min(len(ids) - before, subject.context - 1, len(ids) - 1))
    kept = ids[-subject.context :]
    nbytes = len(question.prompt.encode()) if choice == 0 else 0
    return _Row(number, choice, kept, count, len(kept) < len(ids), nbytes)


def _log_likelihoods(subject: Subject, group: Sequence[_Row]) -> list[float]:
    """The log-likelihood of each row's choice, in nats."""
    import torch

    model: Any = subject.model
    ids, mask = rectangle([row.ids for row in group], subject, side="right")
    # Logits only of the positions that predict some row's choice: those of a prompt would fill memory.
    first = min(len(row.ids) - row.choice_tokens for row in group) - 1
    wanted = torch.arange(first, ids.shape[1] - 1, device=ids.device)
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        logits = model(input_ids=ids, attention_mask=mask, logits_to_keep=wanted, use_cache=False).logits
    else:
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, first:-1]
    values = []
    for row, scores, tokens in zip(group, logits, ids, strict=True):
        start = len(row.ids) - row.choice_tokens
        own = scores[start - 1 - first : len(row.ids) - 1 - first].float()
        chosen = own.gather(1, tokens[start : len(row.ids)].unsqueeze(1)).squeeze(1)
        values.append(float((chosen - own.logsumexp(1)).double().sum()))
    return values


def _judge(question: Question, values: list[float], *, data: str, prompt: str, truncated: bool) -> Item:
    per_byte = [
        value / len(choice.encode()) for value, choice in zip(values, question.choices, strict=True)
    ]
    best = _likeliest(values)
    return Item(
        data=data,
        task=question.task,
        id=question.id,
        score=float(best == question.right),
        normalised=float(_likeliest(per_byte) == question.right),
        prompt=blake3(prompt.encode()).hexdigest(),
        given=None if best is None else question.choices[best],
        truncated=truncated,
        log_likelihoods=tuple(values),
    )


def _likeliest(values: Sequence[float]) -> int | None:
    """The place of the largest; None, which is never right, if the model makes no numbers."""
    if any(value != value for value in values):
        return None
    return max(range(len(values)), key=values.__getitem__)
