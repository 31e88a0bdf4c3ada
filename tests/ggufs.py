"""Small GGUF files of a Llama, written by the gguf package itself, with blocks of several types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from gguf import GGUFWriter
from gguf.quants import quantize
from numpy.typing import NDArray

HIDDEN, HEADS, GROUPS, WIDE, TOKENS, LAYERS = 256, 4, 2, 512, 40, 2
MIXED = {  # by what a tensor's name ends with
    "attn_q.weight": Kind.Q4_0,
    "attn_k.weight": Kind.Q8_0,
    "attn_v.weight": Kind.Q6_K,
    "attn_output.weight": Kind.Q4_K,
    "ffn_gate.weight": Kind.BF16,
    "ffn_up.weight": Kind.F16,
    "ffn_down.weight": Kind.F32,
}
# Where the half-precision scales of a block lie.
_SCALES = {Kind.Q4_K: (0, 2), Kind.Q6_K: (208,)}


@dataclass(frozen=True)
class Tokenizer:
    """A byte-level tokenizer of TOKENS tokens: two special ones, letters, a space, and merges."""

    merges: tuple[tuple[str, str], ...] = (
        ("t", "h"),
        ("th", "e"),
        ("Ġ", "the"),
        ("a", "n"),
        ("an", "d"),
    )
    template: str = "{% for m in messages %}{{ m.content }}<end>{% endfor %}"

    @property
    def tokens(self) -> list[str]:
        """All of them, by their ids."""
        found = ["<end>", "<think>", *ascii_lowercase, "Ġ", *("".join(pair) for pair in self.merges)]
        return found + [f"[{number}]" for number in range(TOKENS - len(found))]

    @property
    def types(self) -> list[int]:
        """Control, user-defined, then normal ones."""
        return [3, 4] + [1] * (TOKENS - 2)


def shapes(layers: int = LAYERS) -> dict[str, tuple[int, ...]]:
    """The tensors of the model, by ggml's names."""
    found: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (TOKENS, HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "output.weight": (TOKENS, HIDDEN),
    }
    for number in range(layers):
        block = f"blk.{number}."
        found[block + "attn_norm.weight"] = (HIDDEN,)
        found[block + "ffn_norm.weight"] = (HIDDEN,)
        found[block + "attn_q.weight"] = (HIDDEN, HIDDEN)
        found[block + "attn_k.weight"] = (HIDDEN // HEADS * GROUPS, HIDDEN)
        found[block + "attn_v.weight"] = (HIDDEN // HEADS * GROUPS, HIDDEN)
        found[block + "attn_output.weight"] = (HIDDEN, HIDDEN)
        found[block + "ffn_gate.weight"] = (WIDE, HIDDEN)
        found[block + "ffn_up.weight"] = (WIDE, HIDDEN)
        found[block + "ffn_down.weight"] = (HIDDEN, WIDE)
    return found


def packed(values: NDArray[np.float32], kind: Kind, seed: int) -> NDArray[Any]:
    """`values` as blocks of `kind`, or, where gguf cannot make these, other blocks of the same shape."""
    if kind in _SCALES:
        rng = np.random.default_rng(seed)
        data = rng.integers(0, 256, gguf.quant_shape_to_byte_shape(values.shape, kind), np.uint8)
        blocks = data.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1])
        for at in _SCALES[kind]:
            blocks[:, at : at + 2] = rng.integers(0, 60, (len(blocks), 2), np.uint8)  # finite
        return data
    return quantize(values, kind)


def write_gguf(
    path: Path,
    kinds: dict[str, Kind] | Kind = MIXED,
    *,
    architecture: str = "llama",
    seed: int = 1,
    facts: dict[str, str] | None = None,
    extra: dict[str, tuple[int, ...]] | None = None,
    counts: dict[str, int] | None = None,
    leave_out: Sequence[str] = (),
    tokenizer: Tokenizer | None = None,
) -> Path:
    """A model of random weights. kinds: of all matrices, or by the endings of names; others are F32."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(path, architecture)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(GROUPS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokenizer.tokens if tokenizer else [f"t{n}" for n in range(TOKENS)])
    if tokenizer:
        writer.add_token_types(tokenizer.types)
        writer.add_token_merges([" ".join(merge) for merge in tokenizer.merges])
        writer.add_eos_token_id(0)
        writer.add_chat_template(tokenizer.template)
    writer.add_bos_token_id(3)
    for key, value in (facts or {}).items():
        writer.add_string(key, value)
    for key, count in (counts or {}).items():
        writer.add_uint32(key, count)
    rng = np.random.default_rng(seed)
    for number, (name, shape) in enumerate({**shapes(), **(extra or {})}.items()):
        values = (rng.normal(size=shape) * 0.05).astype(np.float32)
        if name in leave_out:
            continue
        wanted = kinds if isinstance(kinds, Kind) else _kind_of(name, kinds)
        kind = wanted if len(shape) > 1 else Kind.F32
        writer.add_tensor(name, packed(values, kind, number), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _kind_of(name: str, kinds: dict[str, Kind]) -> Kind:
    return next((kind for ending, kind in kinds.items() if name.endswith(ending)), Kind.F32)
