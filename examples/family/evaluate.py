"""Score models of the example family: tasks by exact match, prose by bits per byte.

    python examples/family/evaluate.py base-v1 post-v1
    python examples/family/evaluate.py path/to/transferred --base base-v2 --reference post-v2

A model is a folder; a bare name that is no folder here is looked for beside this script.

An answer is right if the greedy completion starts with the expected text and ends there at once:
with the model's own end token, or with the text `<|end|>`. A model with a chat template is
prompted through it. A model without one gets the same characters, `<|user|> ...<|assistant|>`, as
plain text, and may write `<|end|>` as plain text; so a base is asked the same question, in a form
that it has never seen.

Bits per byte are taken over the held-out documents of each set of prose, in windows of the
model's context; each document starts after the tokenizer's end-of-document token.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import prose
import tasks
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

HERE = Path(__file__).resolve().parent
HELD_OUT = HERE / "heldout"
PROSE_SETS = ("docstrings", "topics")
CHAT_END = "<|end|>"
DOCUMENT_END = "<|endoftext|>"
PLAIN_FORM = "<|user|> {prompt}<|assistant|>"
# Five words and the end token need at most 6 tokens in chat; `<|end|>` as plain text needs more.
NEW_TOKENS = 16
BATCH = 100


@dataclass(frozen=True)
class Score:
    """A share of right answers, and how sure it is."""

    right: int
    count: int

    @property
    def value(self) -> float:
        """The share of right answers."""
        return self.right / self.count if self.count else math.nan

    @property
    def standard_error(self) -> float:
        """sqrt(p (1 - p) / n)."""
        return math.sqrt(self.value * (1 - self.value) / self.count) if self.count else math.nan

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {
            "right": self.right,
            "count": self.count,
            "value": self.value,
            "standard_error": self.standard_error,
        }


@dataclass(frozen=True)
class Evaluation:
    """What was measured of one model."""

    model: str
    overall: Score
    tasks: dict[str, Score]
    bits_per_byte: dict[str, float]
    gap_recovered: dict[str, float | None] = field(default_factory=dict)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            **asdict(self),
            "overall": self.overall.as_dict(),
            "tasks": {name: score.as_dict() for name, score in self.tasks.items()},
        }


def resolve(name: str | Path) -> Path:
    """The folder that a name on the command line means."""
    path = Path(name)
    return HERE / path if not path.is_dir() and (HERE / path).is_dir() else path


def prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    """The prompt as the model expects it, or as plain text where it has no chat template."""
    if not tokenizer.chat_template:
        return PLAIN_FORM.format(prompt=prompt)
    messages = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def is_right(completion: str, answer: str, end: str) -> bool:
    """Whether a completion is the answer and nothing more, up to an end mark."""
    rest = completion.removeprefix(" ")
    return any(rest.startswith(answer + mark) for mark in (end, CHAT_END))


@torch.inference_mode()
def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
) -> list[str]:
    """Greedy completions, special tokens kept."""
    tokenizer.padding_side = "left"
    completions: list[str] = []
    for start in range(0, len(texts), BATCH):
        batch = tokenizer(
            texts[start : start + BATCH],
            add_special_tokens=False,
            padding=True,
            return_tensors="pt",
            return_token_type_ids=False,
        )
        ids = model.generate(**batch, do_sample=False, max_new_tokens=NEW_TOKENS)
        new = ids[:, batch["input_ids"].shape[1] :]
        completions += tokenizer.batch_decode(new, skip_special_tokens=False)
    return completions


@torch.inference_mode()
def bits_per_byte(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, documents: list[str]
) -> float:
    """Bits that the model needs for each UTF-8 byte of the documents."""
    start = tokenizer.convert_tokens_to_ids(DOCUMENT_END)
    context = model.config.max_position_embeddings
    windows = []
    for document in documents:
        ids = [start, *tokenizer(document, add_special_tokens=False, verbose=False)["input_ids"]]
        # Each token is predicted once; windows share one token, the first to predict from.
        windows += [ids[at : at + context] for at in range(0, len(ids) - 1, context - 1)]
    windows.sort(key=len)
    nats = 0.0
    for at in range(0, len(windows), BATCH):
        rows = windows[at : at + BATCH]
        width = max(map(len, rows))
        inputs = torch.tensor([row + [start] * (width - len(row)) for row in rows])
        labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
        logits = model(input_ids=inputs).logits[:, :-1].float()
        nats += torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100, reduction="sum"
        ).item()
    return nats / math.log(2) / sum(len(document.encode()) for document in documents)


def evaluate(model_path: str | Path, prompts: int = 200, held_out: Path = HELD_OUT) -> Evaluation:
    """Load a model folder and measure it on held-out tasks and held-out prose."""
    folder = resolve(model_path)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    # Weights stay the rounded ones of the folder; float32 arithmetic is faster on a CPU.
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True
    ).eval()
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise ValueError(f"{folder}: {len(tokenizer)} tokens, but only {rows} embedding rows")

    examples = tasks.held_out_examples(prompts)
    texts = [prompt_text(tokenizer, example.prompt) for example in examples]
    end = str(tokenizer.eos_token)
    asked: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for example, completion in zip(examples, complete(model, tokenizer, texts), strict=True):
        asked[example.task] += 1
        right[example.task] += is_right(completion, example.answer, end)
    return Evaluation(
        model=str(model_path),
        overall=Score(right.total(), asked.total()),
        tasks={name: Score(right[name], asked[name]) for name in tasks.TASKS if asked[name]},
        bits_per_byte={
            name: bits_per_byte(model, tokenizer, prose.read_held_out(held_out, name))
            for name in PROSE_SETS
        },
    )


def gap_recovered(
    transferred: Evaluation, new_base: Evaluation, reference: Evaluation
) -> dict[str, float | None]:
    """(transferred - new base) / (reference - new base), overall and per task.

    None where the reference does not differ from the new base.
    """

    def share(of: Score, base: Score, best: Score) -> float | None:
        gap = best.value - base.value
        return (of.value - base.value) / gap if gap else None

    shares = {"overall": share(transferred.overall, new_base.overall, reference.overall)}
    for name, score in transferred.tasks.items():
        shares[name] = share(score, new_base.tasks[name], reference.tasks[name])
    return shares


def evaluate_all(
    models: list[str],
    prompts: int = 200,
    base: str | None = None,
    reference: str | None = None,
    held_out: Path = HELD_OUT,
) -> list[Evaluation]:
    """Evaluate each model once; with both roles, add `gap_recovered` to all the others."""
    roles = [name for name in (base, reference) if name is not None]
    done = {name: evaluate(name, prompts, held_out) for name in dict.fromkeys(models + roles)}
    if base is None or reference is None:
        return list(done.values())
    return [
        result
        if name in roles
        else Evaluation(
            **{
                **vars(result),
                "gap_recovered": gap_recovered(result, done[base], done[reference]),
            }
        )
        for name, result in done.items()
    ]


def table(results: list[Evaluation]) -> str:
    """A plain table, one line for each model."""

    def line(first: str, cells: list[str]) -> str:
        return first.ljust(width) + "".join(cell.rjust(12) for cell in cells)

    width = max(len(label) for label in ("gap_recovered", *(r.model for r in results))) + 2
    names = list(results[0].tasks)
    lines = ["Right answers on held-out prompts", line("", ["overall", "±", *names])]
    for result in results:
        shares = [result.overall.value, result.overall.standard_error]
        shares += [score.value for score in result.tasks.values()]
        lines.append(line(result.model, [f"{share:.3f}" for share in shares]))
    recovered = [result for result in results if result.gap_recovered]
    if recovered:
        lines += ["", "gap_recovered", line("", ["overall", "", *names])]
    for result in recovered:
        cells = ["-" if gap is None else f"{gap:.3f}" for gap in result.gap_recovered.values()]
        lines.append(line(result.model, [cells[0], "", *cells[1:]]))
    lines += ["", "Bits per byte on held-out prose", line("", list(PROSE_SETS))]
    for result in results:
        bits = [f"{result.bits_per_byte[name]:.3f}" for name in PROSE_SETS]
        lines.append(line(result.model, bits))
    return "\n".join(lines)


def main() -> None:
    """Read the command line, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="MODEL", help="folder, or name of one here")
    parser.add_argument("--prompts", type=int, default=200, help="held-out prompts (200)")
    parser.add_argument("--base", help="the new base, for gap_recovered")
    parser.add_argument("--reference", help="the new base, really post-trained")
    parser.add_argument("--heldout", type=Path, default=HELD_OUT, help="held-out prose")
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--format", choices=("human", "json"), default="human")
    options = parser.parse_args()
    if (options.base is None) != (options.reference is None):
        parser.error("--base and --reference go together")
    if options.prompts < 1:
        parser.error("--prompts must be at least 1")
    named = [*options.models, *filter(None, (options.base, options.reference))]
    for name in named:
        if not (resolve(name) / "config.json").is_file():
            parser.error(f"{name}: no model folder (config.json not found)")
    if options.threads:
        torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    results = evaluate_all(
        options.models, options.prompts, options.base, options.reference, options.heldout
    )
    if options.format == "json":
        print(json.dumps([result.as_dict() for result in results], indent=2))
    else:
        print(table(results))


if __name__ == "__main__":
    main()
