"""Models and tokenizers for the tests of measuring: the example family's, and small random ones."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

FAMILY = Path(__file__).parents[2] / "examples" / "family"
TEXT = "the quick brown fox jumps over the lazy dog: naïve cafés, 12 × 3 = 36. "


def bpe(tokens: int) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of so many tokens, trained on `TEXT`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=tokens, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


def save_model(
    folder: Path, tokenizer: PreTrainedTokenizerFast, *, rows: int | None = None, **fields: object
) -> LlamaForCausalLM:
    """A random Llama for `tokenizer`, with `rows` of embedding if not one for each token."""
    torch.manual_seed(len(tokenizer))
    config = LlamaConfig(
        vocab_size=rows or len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.3,
        dtype="float32",
        **fields,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.eval()


def plain_model(name: str) -> LlamaForCausalLM:
    """A model of the family as transformers loads it, in float32."""
    return AutoModelForCausalLM.from_pretrained(FAMILY / name, dtype=torch.float32).eval()
