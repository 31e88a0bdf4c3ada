"""An adapter of nothing but the embedding or the head, of a base whose head is its embedding."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapters.making import merged_by_us
from models import cast, formula, near, random_state, read_model, same_bits, write_model
from safetensors.torch import save_file

from pipeline import apply, compute, verify
from pipeline.errors import NotACheckpoint

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Model = Callable[[dict[str, torch.Tensor], list[str]], str]


@pytest.fixture
def base(tmp_path: Path) -> str:
    """A small model whose embedding is its head."""
    return str(write_model(tmp_path / "base", cast(random_state(1)), tie_word_embeddings=True))


@pytest.fixture
def adapter(tmp_path: Path) -> Model:
    """Writes an adapter with these tensors, by their names behind PEFT's prefix, and these targets."""

    def write(state: dict[str, torch.Tensor], targets: list[str]) -> str:
        folder = tmp_path / "adapter"
        folder.mkdir()
        named = {f"base_model.model.{name}": tensor for name, tensor in state.items()}
        save_file(named, folder / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": targets}
        (folder / "adapter_config.json").write_text(json.dumps(config))
        return str(folder)

    return write


def released(base: str, post: str, folder: Path) -> tuple[dict[str, torch.Tensor], bool]:
    """What comes of moving post's delta to another tied base, and whether the result is tied.

    On its own base it has come back as it was, before.
    """
    delta = str(folder / "d.safetensors")
    compute(base, post, delta)
    assert verify(delta, base=base, post=post).restores_post
    apply(base, [delta], str(folder / "restored"))
    merged, restored = merged_by_us(base, post), read_model(folder / "restored")
    assert merged.keys() == restored.keys()
    assert all(same_bits(restored[name], merged[name]) for name in merged)
    new = cast(near(read_model(Path(base)), 5))
    apply(str(write_model(folder / "new", new, tie_word_embeddings=True)), [delta], str(folder / "out"))
    config = json.loads((folder / "out" / "config.json").read_text())
    found, old = read_model(folder / "out"), read_model(Path(base))
    for name, tensor in found.items():
        own = name if name in new else EMBEDDING
        assert same_bits(tensor, formula(new[own], (1.0, merged[name], old[own]))), name
    return found, config["tie_word_embeddings"]


@pytest.mark.parametrize("name", [EMBEDDING, HEAD])
def test_one_that_is_held_whole_unties_the_result(
    name: str, base: str, adapter: Model, tmp_path: Path
) -> None:
    before = read_model(Path(base))[EMBEDDING]
    whole = (before.float() + 0.1).bfloat16()
    found, is_tied = released(base, adapter({name: whole}, ["none"]), tmp_path)
    assert not is_tied
    other = HEAD if name == EMBEDDING else EMBEDDING
    assert not same_bits(found[name], found[other])
    assert same_bits(merged_by_us(base, tmp_path / "adapter")[other], before)


def test_an_adapted_embedding_stays_the_head(base: str, adapter: Model, tmp_path: Path) -> None:
    rows, columns = read_model(Path(base))[EMBEDDING].shape
    factors = {
        "model.embed_tokens.lora_embedding_A": torch.randn(2, rows),
        "model.embed_tokens.lora_embedding_B": torch.randn(columns, 2) * 0.1,
    }
    found, is_tied = released(base, adapter(factors, ["embed_tokens"]), tmp_path)
    assert is_tied
    assert HEAD not in found


def test_an_adapted_head_is_refused_with_the_reason_and_a_way_out(
    base: str, adapter: Model, tmp_path: Path
) -> None:
    rows, columns = read_model(Path(base))[EMBEDDING].shape
    factors = {
        "lm_head.lora_A.weight": torch.ones(2, columns),
        "lm_head.lora_B.weight": torch.ones(rows, 2),
    }
    with pytest.raises(NotACheckpoint, match=r"would change both .*untie the base first"):
        compute(base, adapter(factors, ["lm_head"]), str(tmp_path / "d.safetensors"))
    assert not (tmp_path / "d.safetensors").exists()
