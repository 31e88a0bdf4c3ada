"""What a model is shown of a question: its own chat template's text, or the plain form.

A model with a chat template is asked through it: the system message if there is one, the user's, and
the mark where the answer begins. A template that knows no system message gets that text at the head of
the user's. A model without a template, as bases are, gets the plain form: the system text and a blank
line if there is one, then the prompt as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.errors import CorruptFile
from pipeline.quality.questions import Question


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text to be continued. is_chat: whether its special tokens are written in it already."""

    text: str
    is_chat: bool

    def ids(self, tokenizer: Any, continuation: str = "") -> list[int]:
        """The tokens of the text, and of a continuation of it."""
        text = self.text + continuation
        words = tokenizer(text, add_special_tokens=not self.is_chat, verbose=False)
        return list(words["input_ids"])


def make_prompt(tokenizer: Any, question: Question) -> Prompt:
    """What the model of `tokenizer` is shown. Raises CorruptFile for a template that does not work."""
    if not tokenizer.chat_template:
        head = f"{question.system}\n\n" if question.system else ""
        return Prompt(head + question.prompt, is_chat=False)
    return Prompt(_render(tokenizer, question, None), is_chat=True)


def continuation(tokenizer: Any, question: Question, prompt: Prompt, choice: str) -> str:
    """How `choice` stands behind the prompt: after what the template, or plain text, puts between.

    A template's text after the answer is no part of it. Raises CorruptFile for a template that fails.
    """
    if not prompt.is_chat:
        return choice if prompt.text[-1:].isspace() else f" {choice}"
    whole = _render(tokenizer, question, choice)
    rest = whole.removeprefix(prompt.text)
    lead, found, _ = rest.partition(choice)
    # Some templates write an earlier answer otherwise than the one under way: nothing is between, then.
    return lead + choice if found and rest != whole and not lead.strip() else choice


def _render(tokenizer: Any, question: Question, answer: str | None) -> str:
    """The conversation by the template, up to where the answer begins, or with one."""
    from jinja2.exceptions import TemplateError

    user, system = question.prompt, question.system
    forms = [[("user", user)]]
    if system:
        forms = [[("system", system), ("user", user)], [("user", f"{system}\n\n{user}")]]
    said = ""
    for form in forms:
        turns = [*form, *([("assistant", answer)] if answer is not None else [])]
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=answer is None
            )
        except (TemplateError, TypeError, ValueError, KeyError, AttributeError) as error:
            said = f"{type(error).__name__}: {error}"
            continue
        return str(text)
    raise CorruptFile(
        f"the tokenizer's chat template fails on question {question.id} of {question.task}: {said}",
        hint="look at chat_template.jinja or tokenizer_config.json of the model",
    )
