"""Answers that a model writes: greedy, many at a time.

Questions are sorted by length, so that little is padding; each row is padded on the left. The model's
own settings of generation are left aside but for the tokens that end an answer: temperatures and
penalties would measure something else than the model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from blake3 import blake3

from pipeline.quality.answers import is_same, matches
from pipeline.quality.items import Item
from pipeline.quality.prompts import make_prompt
from pipeline.quality.questions import Question
from pipeline.quality.rectangles import groups, pad_id, rectangle
from pipeline.quality.subject import Subject


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question with its tokens. new_tokens: bound on the answer. number: its place in the file."""

    number: int
    question: Question
    text: str
    ids: list[int]
    new_tokens: int
    truncated: bool


def generate_answers(
    subject: Subject,
    questions: Sequence[Question],
    *,
    data: str,
    batch: int,
    advance: Callable[[int], None],
) -> list[Item]:
    """What the model answers to `questions`, each judged; in their order.

    Half of the model's context at most is for an answer; a prompt that does not fit into the rest loses
    its beginning. batch: questions at once, of short ones. advance: is told of the bytes of prompts that
    were answered. Raises CorruptFile for a chat template that fails.
    """
    asked = [_ask(subject, number, each) for number, each in enumerate(questions)]
    asked.sort(key=lambda each: (each.new_tokens, len(each.ids), each.number), reverse=True)
    items: dict[int, Item] = {}
    ends = end_ids(subject)
    with _plain_generation(subject.model):
        for group in groups(asked, batch, lambda each: len(each.ids) + each.new_tokens):
            for each, ids in zip(group, _complete(subject, group, ends), strict=True):
                items[each.number] = _judge(subject.tokenizer, each, ids, ends, data)
            advance(sum(len(each.question.prompt.encode()) for each in group))
    return [items[number] for number in range(len(asked))]


def end_ids(subject: Subject) -> list[int]:
    """The tokens that end an answer: those of the generation config, and the tokenizer's own."""
    config = getattr(subject.model.generation_config, "eos_token_id", None)
    found = [*config] if isinstance(config, list | tuple) else [config]
    return sorted({int(each) for each in (*found, subject.tokenizer.eos_token_id) if each is not None})


def _ask(subject: Subject, number: int, question: Question) -> _Asked:
    prompt = make_prompt(subject.tokenizer, question)
    new_tokens = max(1, min(question.max_new_tokens, subject.context // 2))
    whole = prompt.ids(subject.tokenizer) or [pad_id(subject.tokenizer)]
    ids = whole[-max(1, subject.context - new_tokens) :]
    return _Asked(number, question, prompt.text, ids, new_tokens, len(ids) < len(whole))


@contextmanager
def _plain_generation(model: Any) -> Iterator[None]:
    """Have `generate` take nothing from the model's own settings, which it would mix in."""
    from transformers import GenerationConfig

    nothing: Any = GenerationConfig
    kept = model.generation_config
    model.generation_config = nothing()
    try:
        yield
    finally:
        model.generation_config = kept


def _complete(subject: Subject, group: Sequence[_Asked], ends: list[int]) -> list[list[int]]:
    """The tokens that the model writes after each prompt, its end and padding behind it included."""
    from transformers import GenerationConfig

    pad = pad_id(subject.tokenizer)
    rows = [each.ids for each in group]
    ids, mask = rectangle(rows, subject, side="left")
    make: Any = GenerationConfig
    config = make(
        do_sample=False,
        num_beams=1,
        max_new_tokens=max(each.new_tokens for each in group),
        eos_token_id=ends or None,
        pad_token_id=pad,
    )
    generate: Any = subject.model.generate
    out = generate(input_ids=ids, attention_mask=mask, generation_config=config)
    # Greedy text is the same however much may follow: each answer is cut at its question's own bound.
    new = out[:, ids.shape[1] :].tolist()
    return [row[: each.new_tokens] for row, each in zip(new, group, strict=True)]


def _judge(tokenizer: Any, asked: _Asked, ids: list[int], ends: list[int], data: str) -> Item:
    at = next((place for place, token in enumerate(ids) if token in ends), None)
    words = ids if at is None else ids[:at]
    given = tokenizer.decode(words, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    question = asked.question
    judge = is_same if question.kind == "exact" else matches
    return Item(
        data=data,
        task=question.task,
        id=question.id,
        score=float(judge(given, question.answer)),
        prompt=blake3(asked.text.encode()).hexdigest(),
        given=given,
        ended=at is not None,
        truncated=asked.truncated,
    )
