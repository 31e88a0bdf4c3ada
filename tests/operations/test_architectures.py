"""No architecture is special: tiny random models of several kinds, made by transformers itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from models import formula, read_model, same_bits
from transformers import AutoModelForCausalLM

from pipeline import apply, compute
from pipeline.operations.apply import ANOTHER_BASE, SAME_BASE

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
KINDS: dict[str, dict[str, Any]] = {
    "Qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "Gemma": {"num_key_value_heads": 1, "head_dim": 8},
    "Phi": {},
    "Mistral": {"num_key_value_heads": 2},
    "Mixtral": {"num_key_value_heads": 2, "num_local_experts": 4},
    "Phi3": {"num_key_value_heads": 2},
    "GPTNeoX": {},
    "GPT2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}


def save(kind: str, folder: Path, seed: int, moved: float) -> None:
    """A model of `kind` whose weights are those of seed 0, moved a little by `seed`."""
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **KINDS[kind]})
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += moved * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)


def logits(folder: Path) -> torch.Tensor:
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    with torch.no_grad():
        return model.eval()(torch.arange(3, 23).reshape(2, 10)).logits


@pytest.mark.parametrize("kind", KINDS)
def test_an_architecture_is_restored_and_transferred(kind: str, tmp_path: Path) -> None:
    for name, seed, moved in (("base", 1, 0.0), ("post", 2, 1e-3), ("new", 3, 1e-2)):
        save(kind, tmp_path / name, seed, moved)
    delta = str(tmp_path / "d.safetensors")
    compute(str(tmp_path / "base"), str(tmp_path / "post"), delta)
    assert apply(str(tmp_path / "base"), [delta], str(tmp_path / "same")).case == SAME_BASE
    base, post, new, same = (read_model(tmp_path / name) for name in ("base", "post", "new", "same"))
    assert [name for name in post if not same_bits(same[name], post[name])] == []
    assert torch.equal(logits(tmp_path / "same"), logits(tmp_path / "post"))

    assert apply(str(tmp_path / "new"), [delta], str(tmp_path / "out")).case == ANOTHER_BASE
    out = read_model(tmp_path / "out")
    expected = {name: formula(new[name], (1.0, post[name], base[name])) for name in new}
    assert [name for name in new if not same_bits(out[name], expected[name])] == []
    assert logits(tmp_path / "out").isfinite().all()
