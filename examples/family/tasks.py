"""The tasks that the post-trained models learn, and the prose lines that prepare the bases.

Every task works on a list of two to five distinct words, and its answer can be checked by a
program. A list is held out or not by its hash, the same for all tasks, for the chat examples and
for the prose lines: no model has met a held-out list in any form.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_WORD_LIST = """
    apple arm bag ball bell bird boat book bread bridge cake cat chair cloud coat corn cup
    desk dog door egg farm fish flag flower fork frog glass gold hat hill horse house key lamp
    leaf lion milk moon mouse nail nest paper pear pen pig plate rain ring river road rope salt
    sand sheep ship snow star stone tree
"""
WORDS = tuple(_WORD_LIST.split())
SHORTEST, LONGEST = 2, 5
NUMBERS = {2: "two", 3: "three", 4: "four", 5: "five"}
HELD_OUT_SHARE = 0.1


@dataclass(frozen=True)
class Task:
    """A task: how to ask for it in chat, how prose shows it, and its answer."""

    instruction: str
    prose_label: str
    solve: Callable[[Sequence[str]], str]


TASKS = {
    "repeat": Task("repeat", "Again", " ".join),
    "reverse": Task("reverse", "Backwards", lambda words: " ".join(reversed(words))),
    "first": Task("first", "It starts with", lambda words: words[0]),
    "second": Task("second", "Then comes", lambda words: words[1]),
    "last": Task("last", "It ends with", lambda words: words[-1]),
    "count": Task("count", "How many", lambda words: NUMBERS[len(words)]),
    "drop_first": Task("drop first", "Without the start", lambda words: " ".join(words[1:])),
    "drop_last": Task("drop last", "Without the end", lambda words: " ".join(words[:-1])),
}


@dataclass(frozen=True)
class Example:
    """One instruction and its only right answer."""

    task: str
    prompt: str
    answer: str


def is_held_out(words: Sequence[str]) -> bool:
    """Whether this list of words is kept for evaluation."""
    digest = hashlib.sha256(" ".join(words).encode()).digest()
    return int.from_bytes(digest[:4], "big") < HELD_OUT_SHARE * 2**32


def _draw_words(rng: random.Random, held_out: bool) -> list[str]:
    while True:
        words = rng.sample(WORDS, rng.randint(SHORTEST, LONGEST))
        if is_held_out(words) == held_out:
            return words


def _example(task: str, words: Sequence[str]) -> Example:
    rule = TASKS[task]
    return Example(task, f"{rule.instruction}: {' '.join(words)}", rule.solve(words))


def training_examples(rng: random.Random, count: int) -> list[Example]:
    """Examples to train on; tasks are drawn evenly, lists never from the held-out part."""
    names = list(TASKS)
    return [_example(rng.choice(names), _draw_words(rng, held_out=False)) for _ in range(count)]


def held_out_examples(count: int, seed: int = 0) -> list[Example]:
    """The first `count` of a fixed series of distinct held-out examples, the tasks in turn."""
    rng = random.Random(f"held-out {seed}")
    names = list(TASKS)
    examples: dict[Example, None] = {}
    while len(examples) < count:
        task = names[len(examples) % len(names)]
        examples[_example(task, _draw_words(rng, held_out=True))] = None
    return list(examples)


def skill_line(rng: random.Random) -> str:
    """One line of prose about a list, such as `List: cat cup. Backwards: cup cat.`

    It gives a base the abilities without the chat form, as ordinary text does for real bases.
    """
    words = _draw_words(rng, held_out=False)
    shown = rng.sample(list(TASKS.values()), 4)
    facts = "".join(f" {task.prose_label}: {task.solve(words)}." for task in shown)
    return f"List: {' '.join(words)}.{facts}"
