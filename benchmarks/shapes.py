"""Llama-shaped models by size: their config.json, and the tensors that it implies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

Shape = tuple[int, ...]

BYTES_PER_ELEMENT = 2  # bfloat16
SHARD_BYTES = 5 * 10**9  # what transformers wrote for years, and mergekit still does
CONFIG = "config.json"
MODELS = ("base", "post", "base2")


def _llama(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocab: int
) -> dict[str, Any]:
    """The config.json of a Llama with tied embeddings."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "vocab_size": vocab,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": "bfloat16",
    }


CONFIGS: Mapping[str, dict[str, Any]] = {
    "0.1B": _llama(576, 1536, 30, 9, 3, 49152),  # as SmolLM2-135M
    "1.2B": _llama(2048, 8192, 16, 32, 8, 128256),  # as Llama 3.2 1B
    "3B": _llama(3072, 8192, 28, 24, 8, 128256),  # as Llama 3.2 3B
}


def tensors(config: Mapping[str, Any]) -> Iterator[tuple[str, Shape]]:
    """Every tensor's name and shape, in the order in which they are written."""
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    queries = config["num_attention_heads"] * config["head_dim"]
    keys = config["num_key_value_heads"] * config["head_dim"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.self_attn.q_proj.weight", (queries, hidden)
        yield f"{prefix}.self_attn.k_proj.weight", (keys, hidden)
        yield f"{prefix}.self_attn.v_proj.weight", (keys, hidden)
        yield f"{prefix}.self_attn.o_proj.weight", (hidden, queries)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        yield f"{prefix}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{prefix}.mlp.up_proj.weight", (inner, hidden)
        yield f"{prefix}.mlp.down_proj.weight", (hidden, inner)
    yield "model.norm.weight", (hidden,)


def elements(size: str) -> int:
    """How many parameters a model of this size has."""
    return sum(prod(shape) for _, shape in tensors(CONFIGS[size]))


def model_bytes(size: str) -> int:
    """Bytes of its weights."""
    return elements(size) * BYTES_PER_ELEMENT
