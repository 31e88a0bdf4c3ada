"""Answers are the model's own: greedy, through its chat template, whatever else is in the batch."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from forks import ROOT

from pipeline.errors import CorruptFile
from pipeline.quality.choices import choose_answers
from pipeline.quality.generation import end_ids, generate_answers
from pipeline.quality.items import Item
from pipeline.quality.prompts import make_prompt
from pipeline.quality.questions import Question
from pipeline.quality.subject import Subject, load_subject

FAMILY = ROOT / "examples" / "family"
ASKED = [
    Question("t", str(n), f"{task}: {words}", "exact", "x", max_new_tokens=most)
    for n, (task, words, most) in enumerate(
        [
            ("repeat", "cat cup", 16),
            ("reverse", "apple arm bag ball bell", 16),
            ("count", "cat", 2),
            ("repeat", "cat cup bag", 3),
        ]
    )
]
CHOICES = [
    Question("t", str(n), f"count: {words}", "choices", choices=("two", "three", "four words"), right=n)
    for n, words in enumerate(["cat cup", "cat cup bag", "cat cup bag key"])
]


@pytest.fixture(scope="module")
def post() -> Subject:
    return load_subject(str(FAMILY / "post-v2"), dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def base() -> Subject:
    return load_subject(str(FAMILY / "base-v2"), dtype="float32", device="cpu")


def ask(subject: Subject, questions: list[Question], batch: int = 4) -> list[Item]:
    ask = generate_answers if questions[0].is_generated else choose_answers
    with torch.inference_mode():
        return ask(subject, questions, data="set", batch=batch, advance=lambda nbytes: None)


def by_hand(subject: Subject, text: str, most: int) -> str:
    """Greedy text by the plainest loop that there is: no batch, no cache, no `generate`."""
    ids = subject.tokenizer(text, add_special_tokens=False)["input_ids"]
    new: list[int] = []
    with torch.inference_mode():
        while len(new) < most:
            token = int(subject.model(torch.tensor([ids + new])).logits[0, -1].argmax())
            if token in end_ids(subject):
                break
            new.append(token)
    return str(subject.tokenizer.decode(new, skip_special_tokens=True))


@pytest.mark.parametrize("name", ["post", "base"])
def test_answers_are_those_of_a_plain_loop_in_batches_of_any_size(request, name):
    subject = request.getfixturevalue(name)
    texts = [make_prompt(subject.tokenizer, each).text for each in ASKED]
    expected = [
        by_hand(subject, text, each.max_new_tokens) for text, each in zip(texts, ASKED, strict=True)
    ]
    for batch in (1, 4):
        assert [item.given for item in ask(subject, ASKED, batch)] == expected


def test_an_answer_that_its_bound_cuts_off_has_not_ended(post):
    assert [item.ended for item in ask(post, ASKED)] == [True, True, True, False]


def test_what_the_generation_config_asks_for_is_left_aside(post):
    other = replace(post, model=copy.deepcopy(post.model))
    other.model.generation_config.update(do_sample=True, temperature=9.0, repetition_penalty=9.0)
    before = other.model.generation_config.to_dict()
    assert ask(other, ASKED) == ask(post, ASKED)
    assert other.model.generation_config.to_dict() == before


def test_a_prompt_longer_than_the_context_loses_its_beginning(post):
    long = replace(ASKED[0], prompt="cat " * 300 + "\nrepeat: cat cup")
    (item,) = ask(post, [long])
    assert item.truncated and item.given is not None
    (item,) = ask(post, [replace(CHOICES[0], prompt="cat " * 300)])
    assert item.truncated and all(value < 0 for value in item.log_likelihoods)


def test_a_model_with_a_template_is_asked_through_it_and_one_without_in_the_plain_form(post, base):
    question = replace(ASKED[0], system="Be brief.")
    assert make_prompt(base.tokenizer, question).text == "Be brief.\n\nrepeat: cat cup"
    # Its template knows no system message.
    assert (
        make_prompt(post.tokenizer, question).text
        == "<|user|> Be brief.\n\nrepeat: cat cup<|assistant|>"
    )


def test_a_template_that_fails_is_named_with_its_question(post):
    tokenizer = copy.deepcopy(post.tokenizer)
    for template in ("{{ nobody.knows }}", "{% if", "{{ raise_exception('no') }}"):
        tokenizer.chat_template = template
        with pytest.raises(CorruptFile, match="chat template fails on question 0 of t"):
            make_prompt(tokenizer, ASKED[0])


@pytest.mark.parametrize(("name", "text"), [("post", "<|user|> {}<|assistant|>"), ("base", "{}")])
def test_a_choice_s_log_likelihood_is_that_of_its_tokens(request, name, text):
    subject = request.getfixturevalue(name)
    found = [item.log_likelihoods for item in ask(subject, CHOICES, batch=4)]
    for question, values in zip(CHOICES, found, strict=True):
        prompt = text.format(question.prompt)
        for choice, value in zip(question.choices, values, strict=True):
            ids = subject.tokenizer(f"{prompt} {choice}", add_special_tokens=False)["input_ids"]
            start = len(subject.tokenizer(prompt, add_special_tokens=False)["input_ids"])
            with torch.inference_mode():
                logs = subject.model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
            expected = sum(float(logs[at - 1, ids[at]]) for at in range(start, len(ids)))
            assert value == pytest.approx(expected, abs=1e-3)


def test_the_likeliest_choice_is_the_answer_plain_and_by_length(post):
    items = ask(post, CHOICES)
    assert [item.given for item in items][:2] == ["two", "three"]
    assert [item.score for item in items][:2] == [1, 1]
    for item in items:
        rates = [v / len(c) for v, c in zip(item.log_likelihoods, CHOICES[0].choices, strict=True)]
        best = max(range(3), key=rates.__getitem__)
        assert item.normalised == float(best == int(item.id))


def test_a_model_that_makes_no_numbers_is_never_right(post):
    broken = replace(post, model=copy.deepcopy(post.model))
    with torch.no_grad():
        broken.model.get_input_embeddings().weight.fill_(float("nan"))
    items = ask(broken, CHOICES)
    assert [item.score for item in items] == [0, 0, 0]
    assert all(item.given is None for item in items)
