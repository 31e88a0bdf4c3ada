"""Train the four models of the example family on a CPU.

    base-v1   from nothing, on set 1 and on prose lines that show the tasks
    base-v2   base-v1, read on with set 2: the "new base" that a maker releases later
    post-v1   base-v1, taught to follow instructions, with three new chat tokens
    post-v2   base-v2, taught the same in the same way: the reference for a transferred model

Each stage starts from the bf16 folder of the stage before, because that is what people download,
trains in float32, and is rounded to bf16 once, when it is saved.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import prose
import tasks
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

BASE_VOCABULARY = 1021
CONTEXT = 128
DOCUMENT_END = "<|endoftext|>"
CHAT_TOKENS = ("<|user|>", "<|assistant|>", "<|end|>")
CHAT_END = CHAT_TOKENS[-1]
# The spaces before the contents make the words the same tokens in chat as in prose.
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{%- if message['role'] == 'user' -%}
{{- '<|user|> ' + message['content'] | trim -}}
{%- elif message['role'] == 'assistant' -%}
{{- '<|assistant|> ' + message['content'] | trim + '<|end|>' -}}
{%- else -%}
{{- raise_exception('only the roles user and assistant are known') -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%}
"""
SKILL_LINES = 40_000
LINES_IN_DOCUMENT = 20
PROSE_WEIGHT = 0.5  # Of prose beside chat, in post-training.
IGNORED = -100  # The label that torch's cross entropy leaves out.


@dataclass(frozen=True)
class Stage:
    """Settings of one stage of training."""

    steps: int
    learning_rate: float
    rows: int
    prose_rows: int
    weight_decay: float
    report_every: int = 50


# base-v1 must have settled and base-v2 must stay close to it; otherwise the delta of base-v1
# does not fit base-v2. Post-training has no weight decay, so that it leaves alone what it does
# not train; a quarter as many rows of set 1 as of chat keep it from forgetting prose.
STAGES = {
    "base-v1": Stage(1500, 2e-3, rows=36, prose_rows=18, weight_decay=0.05),
    "base-v2": Stage(300, 2e-4, rows=36, prose_rows=24, weight_decay=0.0),
    "post-v1": Stage(700, 1e-3, rows=48, prose_rows=8, weight_decay=0.0),
    "post-v2": Stage(700, 1e-3, rows=48, prose_rows=8, weight_decay=0.0),
}


@dataclass(frozen=True)
class Part:
    """One part of a loss, and its weight in the sum."""

    name: str
    weight: float
    value: torch.Tensor


Loss = Callable[[LlamaForCausalLM], list[Part]]


def train_tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with exactly `BASE_VOCABULARY` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=BASE_VOCABULARY,
        special_tokens=[DOCUMENT_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=DOCUMENT_END,
        eos_token=DOCUMENT_END,
        pad_token=DOCUMENT_END,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerBase) -> LlamaForCausalLM:
    """An untrained Llama model with 1.4 million parameters."""
    end = tokenizer.eos_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=160,
        intermediate_size=432,
        num_hidden_layers=4,
        num_attention_heads=5,
        num_key_value_heads=5,
        max_position_embeddings=CONTEXT,
        # About 1 / sqrt(hidden_size). With the usual 0.02 so narrow a model took over 800 steps
        # without learning to copy a word from a list; with this it begins to after 200.
        initializer_range=0.08,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
    )
    return LlamaForCausalLM(config)


def load(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """A saved model in float32, and its tokenizer."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for key in ("is_local", "local_files_only"):  # Else they would be saved with the tokenizer.
        tokenizer.init_kwargs.pop(key, None)
    return model, tokenizer


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Round the model to bf16 and write it with its tokenizer and generation settings."""
    model.config.eos_token_id = tokenizer.eos_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        do_sample=False,
    )
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def add_chat_tokens(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase) -> None:
    """Append the chat tokens and their rows; all other ids and rows stay as they are."""
    tokenizer.add_special_tokens({"additional_special_tokens": list(CHAT_TOKENS)})
    tokenizer.eos_token = CHAT_END
    tokenizer.chat_template = CHAT_TEMPLATE
    old_rows = model.config.vocab_size
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[old_rows:].normal_(0.0, model.config.initializer_range)


def token_stream(tokenizer: PreTrainedTokenizerBase, documents: list[str]) -> torch.Tensor:
    """All documents as one row of ids, each followed by the end-of-document token."""
    rows = tokenizer(documents, add_special_tokens=False, verbose=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids(DOCUMENT_END)
    return torch.tensor([token for row in rows for token in [*row, end]])


def random_rows(stream: torch.Tensor, count: int) -> torch.Tensor:
    """Rows of `CONTEXT` tokens from random places of a stream."""
    starts = torch.randint(len(stream) - CONTEXT, (count,))
    return torch.stack([stream[start : start + CONTEXT] for start in starts.tolist()])


def next_token_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of each next token that is not `IGNORED`."""
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED
    )


def reading_loss(text: torch.Tensor, skills: torch.Tensor, stage: Stage) -> Loss:
    """The loss of the bases: rows of prose and rows of skill lines in one batch."""

    def loss(model: LlamaForCausalLM) -> list[Part]:
        skill_rows = random_rows(skills, stage.rows - stage.prose_rows)
        batch = torch.cat([random_rows(text, stage.prose_rows), skill_rows])
        logits = model(input_ids=batch).logits
        count = stage.prose_rows
        share = count / stage.rows
        return [
            Part("prose", share, next_token_loss(logits[:count], batch[:count])),
            Part("skills", 1 - share, next_token_loss(logits[count:], batch[count:])),
        ]

    return loss


def chat_rows(
    tokenizer: PreTrainedTokenizerBase, count: int, rng: random.Random
) -> list[tuple[list[int], list[int]]]:
    """The ids of prompts and of their answers, as the chat template writes them."""
    examples = tasks.training_examples(rng, count)
    prompts, whole = [], []
    for example in examples:
        question = {"role": "user", "content": example.prompt}
        answer = {"role": "assistant", "content": example.answer}
        prompts.append(
            tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
        )
        whole.append(tokenizer.apply_chat_template([question, answer], tokenize=False))
    prompt_ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    whole_ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
    return [(row, full[len(row) :]) for row, full in zip(prompt_ids, whole_ids, strict=True)]


def chat_batch(
    rows: list[tuple[list[int], list[int]]], pad: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, attention mask and labels; only the answer and its end token are learned."""
    width = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.full((len(rows), width), pad)
    labels = torch.full((len(rows), width), IGNORED)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for index, (prompt, answer) in enumerate(rows):
        length = len(prompt) + len(answer)
        ids[index, :length] = torch.tensor(prompt + answer)
        labels[index, len(prompt) : length] = torch.tensor(answer)
        mask[index, :length] = 1
    return ids, mask, labels


def instruction_loss(
    tokenizer: PreTrainedTokenizerBase, text: torch.Tensor, stage: Stage, rng: random.Random
) -> Loss:
    """The loss of the post-trained models: answers in chat, and some rows of set 1."""
    pool = chat_rows(tokenizer, max(stage.rows, stage.rows * stage.steps), rng)
    batches: Iterator[int] = iter(range(0, len(pool), stage.rows))

    def loss(model: LlamaForCausalLM) -> list[Part]:
        start = next(batches)
        rows = pool[start : start + stage.rows]
        ids, mask, labels = chat_batch(rows, tokenizer.pad_token_id)
        chat = next_token_loss(model(input_ids=ids, attention_mask=mask).logits, labels)
        batch = random_rows(text, stage.prose_rows)
        kept = next_token_loss(model(input_ids=batch).logits, batch)
        return [Part("chat", 1.0, chat), Part("prose", PROSE_WEIGHT, kept)]

    return loss


def learning_rate_factor(step: int, steps: int) -> float:
    """A short rise, then a straight fall to 5%."""
    warmup = max(1, steps // 30)
    if step < warmup:
        return (step + 1) / warmup
    return 1.0 - 0.95 * (step - warmup) / max(1, steps - warmup)


def fit(model: LlamaForCausalLM, stage: Stage, loss: Loss, name: str) -> None:
    """Train the model in place and print its losses, as means since the line before."""
    optimizer = torch.optim.AdamW(
        model.parameters(),
        lr=stage.learning_rate,
        betas=(0.9, 0.98),
        weight_decay=stage.weight_decay,
    )
    model.train()
    sums: dict[str, float] = {}
    counted = 0
    started = time.perf_counter()
    for step in range(stage.steps):
        factor = learning_rate_factor(step, stage.steps)
        for group in optimizer.param_groups:
            group["lr"] = stage.learning_rate * factor
        parts = loss(model)
        optimizer.zero_grad()
        torch.stack([part.weight * part.value for part in parts]).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        counted += 1
        for part in parts:
            sums[part.name] = sums.get(part.name, 0.0) + part.value.item()
        if counted == stage.report_every or step == stage.steps - 1:
            means = "  ".join(f"{key} {total / counted:.4f}" for key, total in sums.items())
            seconds = time.perf_counter() - started
            print(f"{name}  step {step + 1:5d}  {means}  {seconds:5.0f} s", flush=True)
            sums, counted = {}, 0
    if not all(torch.isfinite(parameter).all() for parameter in model.parameters()):
        raise SystemExit(f"{name}: the weights are not finite")


def scaled(stage: Stage, scale: float) -> Stage:
    """The same stage with fewer or more steps, for a smoke run."""
    return Stage(**{**vars(stage), "steps": max(1, math.ceil(stage.steps * scale))})


def run(output: Path, names: list[str], seed: int, steps_scale: float) -> None:
    """Train the named stages in their order; a stage reads the folder of its parent."""
    sets = {"docstrings": prose.docstrings(), "topics": prose.topics()}
    for key, value in sets.items():
        characters = sum(map(len, value.train))
        print(f"{key}: {characters} characters to train on, sha256 {value.digest()}")
    prose.write_held_out(output / "heldout", sets)
    rng = random.Random(seed)
    skill_lines = [tasks.skill_line(rng) for _ in range(SKILL_LINES)]
    skills = [
        "\n".join(skill_lines[at : at + LINES_IN_DOCUMENT])
        for at in range(0, SKILL_LINES, LINES_IN_DOCUMENT)
    ]

    for name in names:
        stage = scaled(STAGES[name], steps_scale)
        # The post models share one seed: same examples in the same order, same new rows.
        torch.manual_seed(seed + {"base-v1": 0, "base-v2": 1, "post-v1": 2, "post-v2": 2}[name])
        if name == "base-v1":
            tokenizer = train_tokenizer(sets["docstrings"].train + skills[:200])
            model = new_model(tokenizer)
        else:
            parent = "base-v2" if name == "post-v2" else "base-v1"
            model, tokenizer = load(output / parent)
        if name.startswith("post"):
            add_chat_tokens(model, tokenizer)
            text = token_stream(tokenizer, sets["docstrings"].train)
            loss = instruction_loss(tokenizer, text, stage, random.Random(seed + 2))
        else:
            source = sets["docstrings" if name == "base-v1" else "topics"]
            text = token_stream(tokenizer, source.train)
            loss = reading_loss(text, token_stream(tokenizer, skills), stage)
        fit(model, stage, loss, name)
        save(model, tokenizer, output / name)


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    here = Path(__file__).resolve().parent
    parser.add_argument("--output", type=Path, default=here, help="folder for the four models")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps-scale", type=float, default=1.0, help="0.01 for a smoke run")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--stages",
        default=",".join(STAGES),
        help="comma-separated; a stage that is left out must be in the output folder already",
    )
    options = parser.parse_args()
    names = [name for name in STAGES if name in options.stages.split(",")]
    if set(options.stages.split(",")) - set(STAGES):
        parser.error(f"--stages takes names from {', '.join(STAGES)}")
    torch.set_num_threads(options.threads)
    logging.disable_progress_bar()
    started = time.perf_counter()
    run(options.output, names, options.seed, options.steps_scale)
    print(f"done in {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
