"""Write the family's held-out tasks as a file of questions: heldout/tasks.jsonl.

    python examples/family/tasks_data.py

They are those that evaluate.py asks, in the same order, so that `cli.py evaluate --data` and that
script answer the same questions independently of each other.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import tasks

HERE = Path(__file__).resolve().parent
# Five words and the end token need at most 6 tokens in chat; as plain text a little more.
NEW_TOKENS = 16


def lines(prompts: int) -> str:
    """The questions as lines of JSON."""
    questions = [
        {
            "task": example.task,
            "id": str(number),
            "prompt": example.prompt,
            "answer": example.answer,
            "max_new_tokens": NEW_TOKENS,
        }
        for number, example in enumerate(tasks.held_out_examples(prompts))
    ]
    return "".join(json.dumps(question) + "\n" for question in questions)


def main() -> None:
    """Read the command line, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=800, help="held-out prompts (800)")
    parser.add_argument("--output", type=Path, default=HERE / "heldout" / "tasks.jsonl")
    options = parser.parse_args()
    options.output.write_text(lines(options.prompts), encoding="utf-8")


if __name__ == "__main__":
    main()
